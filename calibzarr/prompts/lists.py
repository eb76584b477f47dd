"""Reading and making prompt lists."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calibzarr.errors import Option, OptionError
from calibzarr.prompts.shapes import shuffled_scenes

MAX_SEED = 2**32 - 1  # of NumPy's RandomState, which draws the noise


@dataclass(frozen=True)
class PromptList:
    """Prompts in the order of the images.

    Attributes:
        prompts: one for each image.
        seeds: the prompt file's own seed of each, or None.
        source: where they come from, for the manifest.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int | None, ...]
    source: str


def shape_captions() -> PromptList:
    """The embedded model's own prompts: 448 captions of shapes, in a fixed shuffled order."""
    captions = [scene.caption for scene in shuffled_scenes()]
    return PromptList(tuple(captions), (None,) * len(captions), "built-in captions of shapes")


def read_prompts(path: Path) -> PromptList:
    """Read a CSV file with a ``prompt`` column, or a text file with one prompt a line.

    A ``seed`` column of the CSV overrides the image's seed; blank lines are passed over.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not UTF-8, has no prompt, lacks the column, or a seed is no seed.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 (byte {error.start} is {error.object[error.start]:#04x}); "
            f"save it as UTF-8"
        ) from None
    if path.suffix.lower() == ".csv":
        rows = _csv_rows(path, text)
    else:
        lines = io.StringIO(text, newline=None)
        rows = [(line.strip(), None) for line in lines if line.strip()]
    if not rows:
        raise ValueError(f"{path} has no prompts")
    prompts, seeds = zip(*rows, strict=True)
    return PromptList(prompts, seeds, path.name)


def _csv_rows(path: Path, text: str) -> list[tuple[str, int | None]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or []]
        if not columns:
            raise ValueError(f"{path} has no prompts")
        if "prompt" not in columns:
            raise ValueError(f"{path} has no column 'prompt'; its columns are {', '.join(columns)}")
        reader.fieldnames = columns
        return [_csv_row(path, reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def _csv_row(path: Path, line: int, row: dict[str, str | None]) -> tuple[str, int | None]:
    prompt = (row["prompt"] or "").strip()
    if not prompt:
        raise ValueError(f"{path}, line {line}: the prompt is empty")
    seed = (row.get("seed") or "").strip()
    if not seed:
        return prompt, None
    if not (seed.isascii() and seed.isdigit() and int(seed) <= MAX_SEED):
        raise ValueError(f"{path}, line {line}: seed must be 0 to {MAX_SEED}, got {seed!r}")
    return prompt, int(seed)


def as_text(prompts: Sequence[str], *, as_csv: bool) -> str:
    """What :func:`read_prompts` reads: CSV with a ``prompt`` column, or one prompt a line."""
    if not as_csv:
        return "".join(f"{prompt}\n" for prompt in prompts)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["prompt"], *([p] for p in prompts)])
    return text.getvalue()


def assign(
    available: PromptList, num_images: int, seed: int, *, repeat: bool
) -> tuple[list[str], list[int]]:
    """Prompt and seed of each image: image i has seed ``seed + i``, or the file's own.

    Args:
        available: the prompts to choose from, taken in order.
        num_images: how many images.
        seed: seed of image 0.
        repeat: whether to start over, with new seeds, when the prompts run out.

    Raises:
        OptionError: if there are too few prompts, or a seed would be too large.
    """
    count = len(available.prompts)
    if num_images > count and not repeat:
        raise OptionError(
            f"{num_images} images need {num_images} prompts, but {available.source} has {count}; "
            f"ask for {count}, or use ",
            Option("repeat"),
            " to go through them again with new seeds",
        )
    if not 0 <= seed <= MAX_SEED - num_images + 1:
        raise OptionError(
            Option("seed"),
            f" must be 0 to {MAX_SEED - num_images + 1} for {num_images} images, got {seed}",
        )
    prompts = [available.prompts[i % count] for i in range(num_images)]
    given = [available.seeds[i] if i < count else None for i in range(num_images)]
    return prompts, [
        seed + i if from_file is None else from_file for i, from_file in enumerate(given)
    ]

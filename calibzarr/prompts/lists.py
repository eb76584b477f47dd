"""Reading and making prompt lists."""

import csv
import io
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibzarr.errors import Option, OptionError
from calibzarr.prompts.shapes import shuffled_scenes

MAX_SEED = 2**32 - 1  # of NumPy's RandomState, which draws the noise
MAX_PROMPTS = 1_000_000  # of a file
MAX_PROMPT_LENGTH = 10_000  # characters
MAX_BYTES = 2**26  # of a file
_DELIMITERS = {".csv": ",", ".tsv": "\t"}  # by the end of the file's name
_NAMES = {",": "commas", "\t": "tabs"}
_SHOWN = 60  # characters of what a message quotes

_Row = tuple[int, str, int | None]  # line, prompt and seed


@dataclass(frozen=True)
class PromptList:
    """Prompts in the order of the images.

    Attributes:
        prompts: one for each image.
        seeds: the prompt file's own seed of each, or None.
        source: where they come from, for the manifest.
        notes: what the user should know of them, a line each.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int | None, ...]
    source: str
    notes: tuple[str, ...] = ()


def shape_captions() -> PromptList:
    """The embedded model's own prompts: 448 captions of shapes, in a fixed shuffled order."""
    captions = [scene.caption for scene in shuffled_scenes()]
    return PromptList(tuple(captions), (None,) * len(captions), "built-in captions of shapes")


def read_prompts(path: str | Path) -> PromptList:
    """Read a table with a ``prompt`` column, or a text file with one prompt a line.

    A file whose name ends with ``.csv`` or ``.tsv`` is a table. Its ``seed`` column overrides the
    image's seed; blank lines are passed over.

    Args:
        path: of the file.

    Returns:
        The prompts in their order, and the seeds that the file names.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not UTF-8, has no prompt, lacks the column or has it twice, a line has
            more fields than there are columns, a seed is no seed, or something is too long.
    """
    path = Path(path)
    text = _text(path)
    delimiter = _DELIMITERS.get(path.suffix.lower())
    rows = list(_lines(text) if delimiter is None else _table(path, text, delimiter))
    if not rows:
        raise ValueError(f"{path} has no prompts")
    if len(rows) > MAX_PROMPTS:
        raise ValueError(f"{path} has {len(rows)} prompts, and {MAX_PROMPTS} are allowed")
    for line, prompt, _ in rows:
        if len(prompt) > MAX_PROMPT_LENGTH:
            raise ValueError(
                f"{path}, line {line}: the prompt has {len(prompt)} characters, and "
                f"{MAX_PROMPT_LENGTH} are allowed: text encoders read some hundreds"
            )
    numbers, prompts, seeds = zip(*rows, strict=True)
    comments = [line for line, prompt in zip(numbers, prompts, strict=True) if prompt[0] == "#"]
    notes = (
        (
            f"{path}, line {comments[0]}: begins with # and is a prompt, as are all such lines: "
            f"{len(comments)}",
        )
        if comments
        else ()
    )
    return PromptList(prompts, seeds, path.name, notes)


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES >> 20} MiB, and no list of prompts")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 (byte {error.start} is {error.object[error.start]:#04x}); "
            f"save it as UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path}, line {line}: has a zero byte; save it as plain text, in UTF-8")
    return text


def _lines(text: str) -> Iterator[_Row]:
    for line, prompt in enumerate(io.StringIO(text, newline=None), start=1):
        if prompt.strip():
            yield line, prompt.strip(), None


def _table(path: Path, text: str, delimiter: str) -> Iterator[_Row]:
    records = _records(path, text, delimiter)
    _, header = next(records, (1, []))
    columns = [name.strip().lower() for name in header]
    if not any(columns):
        return
    if "prompt" not in columns:
        found = textwrap.shorten(", ".join(columns), _SHOWN, placeholder=" ...")
        raise ValueError(f"{path} has no column 'prompt'; its columns are {found}")
    for name in ("prompt", "seed"):
        if columns.count(name) > 1:
            raise ValueError(f"{path} has {columns.count(name)} columns {name!r}; leave one")
    for line, fields in records:
        if len(fields) > len(columns):
            raise ValueError(
                f"{path}, line {line}: has {len(fields)} fields for {len(columns)} columns; put "
                f"a prompt with {_NAMES[delimiter]} between double quotes"
            )
        row = dict(zip(columns, fields, strict=False))
        prompt = row.get("prompt", "").strip()
        if not prompt:
            raise ValueError(f"{path}, line {line}: the prompt is empty")
        yield line, prompt, _seed(path, line, row.get("seed", "").strip())


def _records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The records of a table that are not blank, with the lines where they begin."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {line}: {error}") from None


def _seed(path: Path, line: int, seed: str) -> int | None:
    if not seed:
        return None
    if not (seed.isascii() and seed.isdigit() and len(seed) < 20 and int(seed) <= MAX_SEED):
        shown = textwrap.shorten(seed, _SHOWN, placeholder=" ...")
        raise ValueError(f"{path}, line {line}: seed must be 0 to {MAX_SEED}, got {shown!r}")
    return int(seed)


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


def notes_of_repeats(prompts: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """A line on images with the prompt and the seed of an earlier one, if there are any."""
    first: dict[tuple[str, int], int] = {}
    repeats = [
        (image, before)
        for image, pair in enumerate(zip(prompts, seeds, strict=True))
        if (before := first.setdefault(pair, image)) != image
    ]
    if not repeats:
        return []
    image, before = repeats[0]
    others = f"; so do {len(repeats) - 1} others" if repeats[1:] else ""
    same = f"image {image} has the prompt and the seed of image {before}, and will be the same"
    return [same + others]

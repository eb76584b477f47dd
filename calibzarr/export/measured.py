"""What a comparison measured of quantized checkpoints, in the cards that they have."""

import errno
import os
import stat
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from calibzarr.comparison.figures import Figure
from calibzarr.comparison.result import (
    HEADINGS,
    Comparison,
    RunComparison,
    about_fitted,
    cell,
    figures,
    names,
)
from calibzarr.errors import Message, StoreError
from calibzarr.models.quantized import layout
from calibzarr.storage import durable, schema
from calibzarr.storage.manifest import read_root

START = "<!-- measured by calibzarr compare -->\n"
END = "<!-- until here -->\n"

_COLUMNS = ("PSNR dB", "SSIM", "output dB")


def write_cards(comparison: Comparison, day: date) -> Iterator[Message]:
    """Put figures into the card of each checkpoint whose run was compared with its reference.

    They replace those of an earlier comparison. A checkpoint that is no longer the one that made
    the run, and a card that cannot be written, stay as they are.

    Args:
        comparison: of runs, with which checkpoints stand beside other runs.
        day: on which they were compared.

    Yields:
        Of each checkpoint, what was done with its card, or why nothing was.
    """
    if schema.QUANTIZED in read_root(comparison.reference).attributes:
        return  # figures against a quantized model are none of a checkpoint's quality
    for run in comparison.runs:
        quantized = read_root(run.path).attributes.get(schema.QUANTIZED)
        if quantized is None or quantized["kind"] != schema.BY_CHECKPOINT:
            continue
        card = Path(quantized["path"]) / layout.CARD
        try:
            if layout.sha256(card.parent) != quantized["sha256"]:
                raise StoreError("the checkpoint is not the one that made the run")
            _write(card, section(comparison, run, day))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            yield Message(f"{card} does not say what was measured: {reason}")
        else:
            yield Message(f"{card}: says what was measured of {run.path.name}")


def section(comparison: Comparison, run: RunComparison, day: date) -> str:
    """What a card says of the run of its checkpoint, and of others beside it, as Markdown."""
    calls = ""
    if run.teacher_forced is not None:
        calls = f" Output dB: its SQNR, mean over {len(run.teacher_forced.by_step.step)} calls."
    fitted = f" Note: {about_fitted(run)}." if run.fitted_images else ""
    lines = [
        f"Measured on {day.isoformat()}: {len(comparison.images)} images against those of the "
        f"unquantized model, `{comparison.reference.name}`, with intervals of 95 %.{calls}{fitted}",
        "",
        _row(["", *_COLUMNS]),
        "|---|" + "---:|" * len(_COLUMNS),
        _row(["this checkpoint", *_cells(run)]),
        *(
            _row([f"`{name}`", *_cells(other)])
            for name, other in zip(names(comparison), comparison.runs, strict=True)
            if other is not run
        ),
    ]
    return "\n".join(lines) + "\n"


def between_marks(text: str) -> str:
    """A section that a later comparison replaces."""
    return f"{START}{text}{END}"


def _write(card: Path, text: str) -> None:
    content = durable.read(card).decode("utf-8")
    if not (os.access(card, os.W_OK) and card.stat().st_mode & stat.S_IWUSR):
        raise PermissionError(errno.EACCES, "it is read-only", str(card))
    before, start, remaining = content.partition(START)
    _, end, after = remaining.partition(END)
    if not (start and end):
        before, after = content.rstrip("\n") + "\n\n", ""
    durable.write(card, f"{before}{between_marks(text)}{after}".encode())


def _cells(run: RunComparison) -> list[str]:
    columns = zip(HEADINGS[1:], figures(run), strict=True)
    return [_cell(figure, form) for heading, (figure, form) in columns if heading in _COLUMNS]


def _cell(figure: Figure, form: str) -> str:
    value, low, high = (cell(part, form) for part in (figure.value, figure.low, figure.high))
    return f"{value} ({low} to {high})" if low else value


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", r"\|") for text in cells) + " |"

"""Showing how far a long command is: a bar on a terminal, plain lines elsewhere."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from calibzarr.visible import visible

_LINE_SECONDS = 10.0  # between plain lines
_WORTH_SECONDS = 3.0  # from when an estimate of the time left is worth something
_BAR_CELLS = 20  # at least, where the terminal has 80


class VisibleConsole(Console):
    """A console that shows texts of any origin without obeying them; see :func:`visible`."""

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False) -> None:
        super().__init__(
            stderr=stderr,
            soft_wrap=soft_wrap,
            highlight=False,
            markup=False,  # a path may hold brackets
            emoji=False,
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """What rich makes of every string, also in the cells of a table."""
        return super().render_str(visible(text), **options)


def progress_console(progress: bool | None = None) -> Console:  # noqa: FBT001 - its only one
    """The console that progress and notes go to, on standard error.

    Args:
        progress: whether to tell anything; if None, only on a terminal and in a notebook.
    """
    console = VisibleConsole(stderr=True, soft_wrap=True)
    seen = console.is_terminal or console.is_jupyter  # the latter gets plain lines
    console.quiet = not (seen if progress is None else progress)
    return console


class Reporter(Protocol):
    """What a long function tells of its progress."""

    def advance(self, amount: float, values: int = 0) -> None:
        """``amount`` more units are done, fractions are welcome; and ``values`` were seen."""


class Silent:
    """A reporter that says nothing."""

    def advance(self, amount: float, values: int = 0) -> None:
        """Say nothing."""


@dataclass
class _Rate:
    """Seconds per unit since the start, and the time left at that rate."""

    total: float
    done: float = 0.0
    values: int = 0
    started: float = field(default_factory=lambda: time.monotonic())

    def add(self, amount: float, values: int) -> None:
        self.done += amount
        self.values += values

    def describe(self, unit: str, skipped: float, room: float = math.inf) -> str:
        """In so many characters as there is room for; the time left goes last."""
        here = self.done - skipped
        if here <= 0:
            return f"{self.done:g}/{self.total:g} {unit}s"
        elapsed = time.monotonic() - self.started
        seconds = elapsed / here
        counted = f"{int(self.done + 1e-6)}/{self.total:g} {unit}s"
        if self.total - self.done < 1e-6:
            return f"{counted} in {duration(elapsed)}"
        if elapsed < _WORTH_SECONDS:
            return counted
        parts = [counted, f"{_per_unit(seconds)} s/{unit}"]
        if self.values:
            parts.append(f"{self.values / elapsed / 1e6:.1f}M values/s")
        parts.append(f"{duration(seconds * (self.total - self.done))} left")
        while len(", ".join(parts)) > room and len(parts) > 1:
            del parts[max(len(parts) - 2, 1)]
        return ", ".join(parts)


def _per_unit(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:.0f}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, such as ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields["rate"]))


@contextmanager
def reporting(
    console: Console, verb: str, unit: str, total: int, done: int = 0
) -> Iterator[Reporter]:
    """Report progress on ``console`` while the block runs.

    Args:
        console: where to; a quiet console stays silent.
        verb: what is being done, for the beginning of the line.
        unit: what is counted, singular.
        total: how many there are.
        done: how many were done before.
    """
    rate = _Rate(total, done)
    if console.quiet:
        yield Silent()
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),  # what the text leaves
            _RateColumn(table_column=Column(no_wrap=True)),
        )
        room = console.width - len(verb) - 2 - min(_BAR_CELLS, console.width // 4)
        with Progress(*columns, console=console, expand=True) as bars:
            task = bars.add_task(verb, total=total, completed=done, rate=f"0/{total:g} {unit}s")

            class Bar:
                def advance(self, amount: float, values: int = 0) -> None:
                    rate.add(amount, values)
                    bars.update(task, advance=amount, rate=rate.describe(unit, done, room))

            yield Bar()
            bars.update(task, rate=rate.describe(unit, done, room))
    else:
        last = time.monotonic()

        class Lines:
            def advance(self, amount: float, values: int = 0) -> None:
                nonlocal last
                rate.add(amount, values)
                if time.monotonic() - last >= _LINE_SECONDS:
                    last = time.monotonic()
                    console.print(f"{verb}: {rate.describe(unit, done)}")

        yield Lines()

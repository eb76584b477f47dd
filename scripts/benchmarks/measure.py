"""Ratios from interleaved repetitions: what every entry of the benchmark is made of."""

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_PRINT_PEAK = """
from benchmarks.measure import peak_bytes
print(peak_bytes())
"""


@dataclass(frozen=True)
class Settings:
    """How much to measure.

    Attributes:
        quick: sizes that only show that the benchmark works.
        rounds: repetitions of everything that is timed; None for each entry's own.
        directory: where files are written meanwhile; None for the system's temporary one.
    """

    quick: bool = False
    rounds: int | None = None
    directory: Path | None = None

    def choose(self, full: Any, quick: Any) -> Any:
        """The value that goes with the size of the run."""
        return quick if self.quick else full

    def turns(self, full: int, quick: int = 1) -> int:
        """How often to repeat something."""
        return self.rounds or self.choose(full, quick)

    def scratch(self) -> tempfile.TemporaryDirectory[str]:
        """A directory that is removed when its context ends."""
        return tempfile.TemporaryDirectory(prefix="calibzarr-bench-", dir=self.directory)


@dataclass(frozen=True)
class Figure:
    """One measured ratio to a baseline of the same run.

    Attributes:
        entry: the entry of the benchmark that it belongs to.
        what: what is divided by what.
        ratios: one for each round; the median counts.
        at_most: target, where small is good.
        at_least: target, where large is good.
        note: what a reader has to know of it.
    """

    entry: str
    what: str
    ratios: Sequence[float]
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def measured(self) -> float:
        """Median over the rounds."""
        return float(np.median(self.ratios))

    @property
    def spread(self) -> tuple[float, float]:
        """Lower and upper quartile over the rounds."""
        low, high = np.quantile(self.ratios, [0.25, 0.75])
        return float(low), float(high)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.at_most is not None:
            return self.measured <= self.at_most
        if self.at_least is not None:
            return self.measured >= self.at_least
        return None

    def as_json(self) -> dict[str, Any]:
        """The figure in JSON types."""
        return {
            "entry": self.entry,
            "what": self.what,
            "measured": self.measured,
            "quartiles": list(self.spread),
            "rounds": len(self.ratios),
            "at_most": self.at_most,
            "at_least": self.at_least,
            "met": self.met,
            "note": self.note,
        }


Entry = Callable[[Settings], list[Figure]]


@dataclass(frozen=True)
class Turn:
    """One timed call.

    Attributes:
        number: of the round, from 0.
        directory: empty before the call, and removed after it.
    """

    number: int
    directory: Path


def interleave(
    ways: Mapping[str, Callable[[Turn], object]], rounds: int, settings: Settings
) -> dict[str, np.ndarray]:
    """Time several ways to do one thing in turns, forwards and backwards alternately.

    A first round, which warms caches up, does not count; a quick run has none.

    Returns:
        Seconds of every way, shape (round,).
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(0 if settings.quick else -1, rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            with settings.scratch() as directory:
                turn = Turn(max(number, 0), Path(directory))
                start = time.perf_counter()
                ways[name](turn)
                elapsed = time.perf_counter() - start
            if number >= 0:
                seconds[name].append(elapsed)
    return {name: np.array(values) for name, values in seconds.items()}


def preloaded_blas() -> str | None:
    """File name of the OpenBLAS that LD_PRELOAD puts in place of MLX's own BLAS, or None."""
    names = os.environ.get("LD_PRELOAD", "").replace(":", " ").split()
    return next((Path(name).name for name in names if "openblas" in name), None)


def optimised_blas() -> bool:
    """Whether MLX computes with an optimised BLAS; its Linux wheel brings a plain one."""
    return sys.platform == "darwin" or preloaded_blas() is not None


def machine() -> dict[str, Any]:
    """What the figures depend on, in JSON types."""
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "blas": preloaded_blas() or ("Accelerate" if sys.platform == "darwin" else "MLX's own"),
    }


def peak_bytes() -> int:
    """Peak memory of this process, bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024  # a child's ru_maxrss begins with its parent's


def peak_memory(program: str, *arguments: str | Path | int) -> int:
    """Peak memory of a Python program in a process of its own, bytes.

    Args:
        program: its text; it finds the arguments in ``sys.argv`` from 1 on, and the benchmark's
            modules.
        *arguments: of the program.
    """
    scripts = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return int(
        subprocess.run(
            [sys.executable, "-c", program + _PRINT_PEAK, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": scripts.rstrip(os.pathsep)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )

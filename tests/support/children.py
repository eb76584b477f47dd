"""Processes that are killed or interrupted at a chosen moment, never after a chosen time.

A moment is a change of the disk: just before the n-th file or directory is made, renamed or
removed below a directory, the process sends itself a signal. What the disk holds between two
changes is all that a kill can leave, but for the bytes of a file that is being written.

The processes are forks of one that has imported everything, and so begin at once. On macOS,
where a fork may not use the frameworks that MLX is built on, each is a fresh interpreter.
"""

import itertools
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What the commands import when they run: here once, for all forks.
import calibzarr.collecting.collector
import calibzarr.integrity.repair
import calibzarr.integrity.verification
import calibzarr.legacy.exporting
import calibzarr.legacy.importing
import calibzarr.models.tiny  # noqa: F401
from calibzarr import cli

_HANGS_AFTER = 300  # seconds; nothing that passes takes a tenth of it
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")

_context = multiprocessing.get_context("spawn" if sys.platform == "darwin" else "forkserver")
if sys.platform != "darwin":
    _context.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: as the system tells it; of a process that a signal killed, the signal's, negative.
        stdout: what it printed.
        stderr: what it told.
        changes: of the disk, made or, the last, not made any more.
    """

    code: int
    stdout: str
    stderr: str
    changes: int

    @property
    def killed(self) -> bool:
        """Whether it died of SIGKILL."""
        return self.code == -signal.SIGKILL


def command(*arguments: object) -> None:
    """Run the command line; for :func:`run` and :func:`running`."""
    sys.argv = ["calibzarr", *map(str, arguments)]
    cli.main()


def run(
    function: Callable[..., object],
    *arguments: Any,
    below: Path | None = None,
    signals: Mapping[int, int] | None = None,
) -> Ended:
    """Call a function in a process, and wait for the end of that.

    Args:
        function: what a new process can import.
        *arguments: of it.
        below: the directory whose changes are counted.
        signals: what the process sends itself, by the number of the change, from 0, before which.
    """
    with running(function, *arguments, below=below, signals=signals) as wait:
        return wait()


def make_leftovers_old(directory: Path) -> None:
    """Let what killed processes were writing be told at once from what is being written."""
    for partial in directory.rglob("*.partial"):
        os.utime(partial, (0, 0))


@contextmanager
def running(
    function: Callable[..., object],
    *arguments: Any,
    below: Path | None = None,
    signals: Mapping[int, int] | None = None,
) -> Iterator[Callable[[], Ended]]:
    """Begin as :func:`run`; give what waits for the end. The process does not outlive the block."""
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory) / name for name in ("stdout", "stderr", "changes")]
        for file in files:
            file.touch()
        process = _context.Process(
            target=_child, args=(function, arguments, files, below, dict(signals or {}))
        )
        process.start()

        def wait() -> Ended:
            process.join(_HANGS_AFTER)
            assert process.exitcode is not None, f"{function} hangs: {files[1].read_text()}"
            stdout, stderr, changes = (file.read_text() for file in files)
            return Ended(process.exitcode, stdout, stderr, len(changes))

        try:
            yield wait
        finally:
            process.kill()
            process.join()


def _child(
    function: Callable[..., object],
    arguments: tuple[Any, ...],
    files: list[Path],
    below: Path | None,
    signals: dict[int, int],
) -> None:
    for descriptor, file in enumerate(files[:2], 1):
        os.dup2(os.open(file, os.O_WRONLY), descriptor)
    if below is not None:
        _watch(below, os.open(files[2], os.O_WRONLY | os.O_APPEND), signals)
    function(*arguments)


def _watch(below: Path, log: int, signals: dict[int, int]) -> None:
    """Count the changes below a directory, a byte each, and send the signals at theirs."""
    prefix = os.path.join(below, "")
    numbers = itertools.count()  # which threads may draw from

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            changes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            path, changes = arguments[0] if arguments else None, event in _CHANGES
        if not changes or not isinstance(path, str | os.PathLike):
            return
        if os.path.join(path, "").startswith(prefix):
            number = next(numbers)
            os.write(log, b".")
            if number in signals:
                os.kill(os.getpid(), signals[number])

    sys.addaudithook(hook)

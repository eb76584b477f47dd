"""Processes that are killed or interrupted at a chosen moment, never after a chosen time.

A moment is a change of the disk: just before the n-th file or directory is made, renamed or
removed below a directory, the process sends itself a signal. What the disk holds between two
changes is all that a kill can leave, but for the bytes of a file that is being written.

The processes are forks of one that has imported everything, and so begin at once. On macOS,
where a fork may not use the frameworks that MLX is built on, each is a fresh interpreter.
"""

import fcntl
import itertools
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

# What the commands import when they run: here once, for all forks.
import calibzarr.collecting.collector
import calibzarr.integrity.repair
import calibzarr.integrity.verification
import calibzarr.legacy.exporting
import calibzarr.legacy.importing
import calibzarr.models.tiny  # noqa: F401
from calibzarr import cli, parallel
from calibzarr.storage import durable

_HANGS_AFTER = 300  # seconds; nothing that passes takes a tenth of it
_CHANGES = {"os.rename": 2, "os.remove": 1, "os.mkdir": 2, "os.rmdir": 1}  # where dir_fd stands

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


def command_with_signal(images: int, number: int, *arguments: object) -> None:
    """Run a command with workers; it sends itself a signal when so many images are done."""
    results = parallel.results

    def counted(*arguments: Any, **options: Any) -> Iterator[Any]:
        for count, result in enumerate(results(*arguments, **options), 1):
            if count == images:
                os.kill(os.getpid(), number)
            yield result

    parallel.results = counted
    command(*arguments)


def begin_to_write(file: Path, begun: Any) -> None:
    """Begin to write a file, set the event, and wait to be killed."""
    with durable.new_file(file):
        begun.set()
        signal.pause()


def event() -> Any:
    """What a process may set and another wait for."""
    return _context.Event()


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
        files = Path(directory) / "stderr", Path(directory) / "changes"
        for file in files:
            file.touch()
        stdout, writer = _context.Pipe(duplex=False)
        process = _context.Process(
            target=_child, args=(function, arguments, writer, files, below, dict(signals or {}))
        )
        process.start()
        writer.close()

        def wait() -> Ended:
            printed = b""
            while connection.wait([stdout], _HANGS_AFTER):
                more = os.read(stdout.fileno(), 2**16)
                if not more:  # its own workers have ended too, whom it leaves its output
                    break
                printed += more
            process.join(_HANGS_AFTER)
            stderr, changes = (file.read_text() for file in files)
            assert process.exitcode is not None, f"{function} hangs: {stderr}"
            return Ended(process.exitcode, printed.decode(), stderr, len(changes))

        try:
            yield wait
        finally:
            process.kill()
            process.join()
            stdout.close()


def _child(
    function: Callable[..., object],
    arguments: tuple[Any, ...],
    stdout: connection.Connection,
    files: tuple[Path, Path],
    below: Path | None,
    signals: dict[int, int],
) -> None:
    os.dup2(stdout.fileno(), 1)
    stdout.close()
    stderr, changes = (os.open(file, os.O_WRONLY | os.O_APPEND) for file in files)
    os.dup2(stderr, 2)
    if below is not None:
        _watch(below, changes, signals)
    function(*arguments)


def _watch(below: Path, log: int, signals: dict[int, int]) -> None:
    """Count the changes below a directory, a byte each, and send the signals at theirs."""
    prefix = os.path.join(below, "")
    numbers = itertools.count()  # which threads may draw from

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            folder = -1
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in _CHANGES:
            path, folder = arguments[0], arguments[_CHANGES[event]]
        else:
            return
        if not isinstance(path, str | os.PathLike):
            return
        if folder >= 0:  # as when a whole directory is removed
            path = os.path.join(_path_of(folder), path)
        if os.path.join(os.path.abspath(path), "").startswith(prefix):
            number = next(numbers)
            os.write(log, b".")
            if number in signals:
                os.kill(os.getpid(), signals[number])

    sys.addaudithook(hook)


def _path_of(descriptor: int) -> str:
    if sys.platform == "darwin":
        found = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024))
        return os.fsdecode(found.rstrip(b"\0"))
    return os.readlink(f"/proc/self/fd/{descriptor}")

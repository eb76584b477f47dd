"""The frame of everything that takes long: progress, and stopping at a good moment."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from calibzarr import hang_up
from calibzarr.progress import Reporter, reporting

StopRequested = Callable[[], bool]


@contextmanager
def graceful_stop(on_first: Callable[[], None]) -> Iterator[StopRequested]:
    """Turn the first Ctrl-C or SIGTERM into a request; the second raises KeyboardInterrupt.

    A hang-up is a request as well, however often it comes, unless it is ignored.

    Args:
        on_first: called at the first, to tell the user.

    Yields:
        A function that tells whether to stop.
    """
    requested = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            hang_up.note()
        elif requested.is_set():
            raise KeyboardInterrupt
        requested.set()
        on_first()

    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set  # only the main thread may handle signals
        return
    numbers = [signal.SIGINT, signal.SIGTERM, *([] if hang_up.ignored() else [signal.SIGHUP])]
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield requested.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class LongRun:
    """What goes on within :func:`long_run`.

    Attributes:
        report: what to tell of the progress.
        stop_requested: whether the user asked to stop; changes nothing.
        interrupted: whether the work ended early.
    """

    def __init__(self, report: Reporter, stop_requested: StopRequested) -> None:
        self.report = report
        self.stop_requested = stop_requested
        self.interrupted = False

    def stops(self) -> bool:
        """Whether to end here, as the user asked; asked where the work can end well."""
        self.interrupted = self.interrupted or self.stop_requested()
        return self.interrupted


@contextmanager
def long_run(
    console: Console, verb: str, unit: str, total: int, done: int = 0, *, stopping: str
) -> Iterator[LongRun]:
    """Show progress and stop gracefully while the block runs.

    A first Ctrl-C is told of and asked for with :meth:`LongRun.stops`; a second ends the block at
    once, and is no error: ``interrupted`` says so afterwards.

    Args:
        console: where to tell.
        verb: what is being done.
        unit: what is counted, singular.
        total: how many there are.
        done: how many were done before.
        stopping: until when a first Ctrl-C waits, such as ``when the image in work is complete``.
    """

    def tell() -> None:
        console.print(f"stopping {stopping}; Ctrl-C again to stop now")

    with (
        reporting(console, verb, unit, total, done) as report,
        graceful_stop(tell) as stop_requested,
    ):
        run = LongRun(report, stop_requested)
        try:
            yield run
        except KeyboardInterrupt:
            run.interrupted = True

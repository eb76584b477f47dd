"""Stopping at a good moment when the user, or the system, asks for it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

StopRequested = Callable[[], bool]


@contextmanager
def graceful_stop(on_first: Callable[[], None]) -> Iterator[StopRequested]:
    """Turn the first Ctrl-C or SIGTERM into a request; the second raises KeyboardInterrupt.

    Args:
        on_first: called at the first, to tell the user.

    Yields:
        A function that tells whether to stop.
    """
    requested = threading.Event()

    def handle(signal_number: int, frame: FrameType | None) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()
        on_first()

    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set  # only the main thread may handle signals
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

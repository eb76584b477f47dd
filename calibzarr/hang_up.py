"""What a hang-up means: the terminal is gone, the work ends as at Ctrl-C, and nobody is told."""

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 129  # by the shells' convention: 128 + SIGHUP

_happened = threading.Event()


def happened() -> bool:
    """Whether there was a hang-up."""
    return _happened.is_set()


def ignored() -> bool:
    """Whether hang-ups are to change nothing, as ``nohup`` has it."""
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def note() -> None:
    """Remember it; what goes to the terminal, where every write would fail, goes nowhere."""
    _happened.set()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)


@contextmanager
def interrupting() -> Iterator[None]:
    """Let a hang-up raise KeyboardInterrupt within a context, unless it is ignored."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        if not happened():
            note()
            raise KeyboardInterrupt

    _happened.clear()
    if ignored() or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)

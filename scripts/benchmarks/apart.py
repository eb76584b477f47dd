"""A measurement in a process group of its own, which ends with the process that waits for it."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import TypeVar

_Result = TypeVar("_Result")


def run_apart(function: Callable[..., _Result], *arguments: object) -> _Result:
    """Call a function in a process of its own, and return what it returns.

    What it calls may take SIGTERM for a wish to stop early and well; a benchmark is to end. So
    this process waits, and at SIGTERM, SIGHUP or Ctrl-C ends the other one and all its children.

    Args:
        function: what a new process can import.
        *arguments: of it.

    Raises:
        SystemExit: after a signal; or if the function raised, which has been told then.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_lead, args=(sender, function, arguments))
    with _exiting_at((signal.SIGTERM, signal.SIGHUP)):
        try:
            process.start()
            sender.close()
            result: _Result = receiver.recv()
        except EOFError:
            process.join()
            sys.exit(process.exitcode or 1)
        finally:
            _end(process)
    return result


def _lead(sender: Connection, function: Callable[..., object], arguments: tuple) -> None:
    os.setsid()
    sender.send(function(*arguments))


def _end(process: BaseProcess) -> None:
    """Kill a process and its group; waits for it."""
    if process.pid is not None:
        process.kill()
        with suppress(ProcessLookupError):  # it has no group yet, or none any more
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


@contextmanager
def _exiting_at(numbers: tuple[signal.Signals, ...]) -> Iterator[None]:
    def handle(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

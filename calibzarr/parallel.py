"""The same work on many images, in several processes or threads."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import connection
from typing import TypeVar

from calibzarr.errors import Option, WorkerError
from calibzarr.long_run import StopRequested

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

_AHEAD = 2  # tasks for each worker that are handed out


def default_workers() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def results(
    function: Callable[[_Task], _Result],
    tasks: Iterable[_Task],
    workers: int,
    stop_requested: StopRequested,
    *,
    threads: bool = False,
) -> Iterator[_Result]:
    """Results of a function, as they come; after a request to stop only of what was begun.

    Args:
        function: what to do with each task; a new process must be able to import it.
        tasks: its arguments; drawn as they are needed.
        workers: processes or threads; with 1 it is this one.
        stop_requested: asked before each task.
        threads: whether the workers are threads, which begin at once, but share the time that
            is spent in Python itself.

    Raises:
        WorkerError: if a process was killed.
        Exception: what the function raises.
    """
    remaining = iter(tasks)
    if workers == 1:
        for task in remaining:
            if stop_requested():
                return
            yield function(task)
        return
    pool = ThreadPoolExecutor(workers) if threads else _processes(workers)
    waiting: set[Future[_Result]] = set()
    try:
        while True:
            if not stop_requested():
                room = _AHEAD * workers - len(waiting)
                waiting |= {pool.submit(function, task) for task in islice(remaining, room)}
            if not waiting:
                return
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool:
        raise WorkerError(
            "a worker was killed, perhaps because the memory is full; give the same command "
            "again, with fewer ",
            Option("workers"),
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _processes(workers: int) -> Executor:
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of threads
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)


def _begin() -> None:
    """Leave it to the parent what an interrupt or a hang-up means, and do not outlive it."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)

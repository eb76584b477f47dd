import os
import re
import threading

import pytest

from calibzarr import parallel
from calibzarr.errors import WorkerError


def never():
    return False


def square(number):
    return number * number


def die(number):
    os._exit(1)


def fail(number):
    raise ValueError(f"{number} is wrong")


@pytest.mark.parametrize(("workers", "threads"), [(1, False), (2, False), (3, True)])
def test_every_task_has_its_result(workers, threads):
    found = parallel.results(square, range(20), workers, never, threads=threads)
    assert sorted(found) == [number * number for number in range(20)]


@pytest.mark.parametrize("workers", [1, 2])
def test_after_a_request_to_stop_nothing_is_begun(workers):
    begun, stop = [], threading.Event()

    def work(number):
        begun.append(number)
        stop.set()
        return number

    found = list(parallel.results(work, range(100), workers, stop.is_set, threads=True))
    assert sorted(found) == sorted(begun)
    assert 1 <= len(begun) <= 2 * workers


@pytest.mark.parametrize(("workers", "threads"), [(1, False), (2, True)])
def test_what_a_task_raises_is_raised(workers, threads):
    with pytest.raises(ValueError, match="is wrong"):
        list(parallel.results(fail, range(3), workers, never, threads=threads))


def test_a_killed_worker_is_told():
    message = "a worker was killed, perhaps because the memory is full; give the same command again"
    with pytest.raises(WorkerError, match=re.escape(f"{message}, with fewer workers")):
        list(parallel.results(die, range(3), 2, never))

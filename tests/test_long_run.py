import io
import signal
import threading

import pytest
from rich.console import Console

from calibzarr.long_run import graceful_stop, long_run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_second_stops(number):
    before = signal.getsignal(number)
    told = []
    with graceful_stop(lambda: told.append(1)) as requested:
        assert not requested()
        signal.raise_signal(number)
        assert requested()
        assert told == [1]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_hang_ups_ask_however_many_there_are_unless_ignored():
    before = signal.getsignal(signal.SIGHUP)
    with graceful_stop(lambda: None) as requested:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert requested()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGHUP) is before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with graceful_stop(lambda: None) as requested:
            signal.raise_signal(signal.SIGHUP)
            assert not requested()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_go_without():
    outcome = []

    def work():
        with graceful_stop(lambda: None) as requested:
            outcome.append(requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcome == [False]


def test_a_run_asked_to_stop_says_so_at_a_good_moment():
    console = Console(file=io.StringIO())
    done = []
    with long_run(console, "build", "image", 3, stopping="when this is done") as run:
        for image in range(3):
            if image == 1:
                signal.raise_signal(signal.SIGINT)
            done.append(image)
            if run.stops():
                break
    assert done == [0, 1]
    assert run.interrupted
    assert "stopping when this is done; Ctrl-C again to stop now" in console.file.getvalue()


def test_a_second_interrupt_ends_the_block_at_once():
    with long_run(Console(quiet=True), "build", "image", 3, stopping="soon") as run:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the block went on")
    assert run.interrupted


def test_errors_pass_through_and_an_undisturbed_run_is_not_interrupted():
    with long_run(Console(quiet=True), "build", "image", 1, stopping="soon") as run:
        assert not run.stops()
    assert not run.interrupted
    with (
        pytest.raises(OSError, match="full"),
        long_run(Console(quiet=True), "build", "image", 1, stopping="soon"),
    ):
        raise OSError("full")

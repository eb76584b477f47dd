import signal
import threading

import pytest

from calibzarr.long_run import graceful_stop


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


def test_other_threads_go_without():
    outcome = []

    def work():
        with graceful_stop(lambda: None) as requested:
            outcome.append(requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcome == [False]

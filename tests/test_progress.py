import io

import pytest
from rich.console import Console

from calibzarr import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_tell_rate_and_time_left(clock):
    output = io.StringIO()
    with progress.reporting(Console(file=output), "build", "image", 100, done=10) as report:
        for _ in range(20):
            clock[0] += 2.0
            report.advance(0.5)
    lines = output.getvalue().splitlines()
    assert lines[0] == "build: 12/100 images, 4.00 s/image, 0:05:50 left"
    assert lines[-1] == "build: 20/100 images, 4.00 s/image, 0:05:20 left"
    assert len(lines) == 4  # one in ten seconds


def test_bar_on_a_terminal_tells_the_same(clock):
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100)
    with progress.reporting(console, "build", "image", 10) as report:
        clock[0] += 90.0
        report.advance(3)
    assert "3/10 images, 30 s/image, 0:03:30 left" in output.getvalue()


def test_quiet_console_stays_silent(clock):
    output = io.StringIO()
    with progress.reporting(Console(file=output, quiet=True), "build", "image", 10) as report:
        clock[0] += 90.0
        report.advance(3)
    assert output.getvalue() == ""

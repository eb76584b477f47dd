import io
import re

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


def test_it_shows_by_itself_on_a_terminal_and_in_a_notebook_alone(monkeypatch):
    assert progress.progress_console().quiet
    assert not progress.progress_console(progress=True).quiet
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert not progress.progress_console().quiet
    assert progress.progress_console(progress=False).quiet


def drawn(output):
    """Every state of the bar, a line each, without the codes of colours."""
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.getvalue())
    return [line for line in text.replace("\n", "\r").split("\r") if line.strip()]


def terminal(output, width):
    return Console(file=output, force_terminal=True, width=width, legacy_windows=False)


def test_bar_on_a_terminal_tells_how_long_it_took(clock):
    output = io.StringIO()
    with progress.reporting(terminal(output, 100), "build", "image", 10) as report:
        clock[0] += 90.0
        report.advance(3)
        clock[0] += 10.0
        report.advance(7)
    assert "10/10 images in 0:01:40" in drawn(output)[-1]


def test_a_bar_that_has_not_begun_says_what_it_does_and_does_not_move(clock):
    output = io.StringIO()
    with progress.reporting(terminal(output, 80), "build", "image", 10):
        pass
    for line in drawn(output):
        assert re.fullmatch(r"build\s+\u2501{20,}\s+0/10 images", line.strip())


def test_nothing_is_estimated_before_it_is_worth_something(clock):
    output = io.StringIO()
    with progress.reporting(terminal(output, 100), "build", "image", 10) as report:
        clock[0] += 1.0
        report.advance(1)
    assert "left" not in output.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_bar_keeps_its_room(clock, width):
    output = io.StringIO()
    with progress.reporting(terminal(output, width), "sensitivity", "call", 123456) as report:
        clock[0] += 90_000.0
        report.advance(1234, values=10**12)
    for line in drawn(output):
        assert len(re.findall("[\u2501\u2578\u257a]", line)) >= min(20, width // 4)
        assert len(line) <= width


def test_quiet_console_stays_silent(clock):
    output = io.StringIO()
    with progress.reporting(Console(file=output, quiet=True), "build", "image", 10) as report:
        clock[0] += 90.0
        report.advance(3)
    assert output.getvalue() == ""

"""Command lines, and what is asked of any."""

import re

import click

from tests.support.stores import snapshot


def assert_refused(run, place, arguments, code, message):
    """One line of error, and nothing changed."""
    before, entries = snapshot(place), sorted(place.rglob("*"))
    actual, out, err = run(*arguments.split())
    assert (actual, out) == (code, "")
    assert message in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert snapshot(place) == before
    assert sorted(place.rglob("*")) == entries


def assert_best_target_is_told(run, place, arguments, what):
    """A target out of reach is refused with the best one, which is then accepted."""
    option = f"--{what}-target"
    before = snapshot(place)
    code, out, err = run(*arguments.split(), option, 200)
    assert (code, out, err.count("\n")) == (2, "", 1)
    told = re.search(
        rf"no layer reaches --{what}-target 200 dB with up to 8 bits; the .* is (.*) dB", err
    )
    best = float(told[1])
    assert run(*arguments.split(), option, best + 0.06)[0] == 2
    assert snapshot(place) == before
    assert run(*arguments.split(), option, best - 0.06)[0] == 0


def assert_help_is_complete(run, command):
    """Every option is there, and has words of its own."""
    code, out, err = run(command.name, "--help")
    assert (code, err) == (0, "")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help
            assert all(option in out for option in parameter.opts)
    assert "dB" in out

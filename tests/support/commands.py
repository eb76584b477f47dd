"""Command lines, and what is asked of any."""

from contextlib import contextmanager

import click

from calibzarr import cli
from calibzarr.commands.spelling import TYPED
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


def assert_help_is_complete(run, command):
    """Every option is there, and has words of its own."""
    code, out, err = run(command.name, "--help")
    assert (code, err) == (0, "")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help
            assert all(option in out for option in parameter.opts)
    assert "dB" in out


@contextmanager
def at_work(name, *typed):
    """As within a command of the command line, given some words."""
    group = click.Context(cli.cli, info_name="calibzarr")
    with click.Context(cli.cli.commands[name], parent=group, info_name=name) as context:
        context.meta[TYPED] = list(typed)
        yield

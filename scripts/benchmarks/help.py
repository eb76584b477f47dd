"""What asking for help costs, against a bare group of click's with as many commands."""

import os
import subprocess
import sys

import numpy as np

from benchmarks.measure import Entry, Figure, Settings
from calibzarr.cli import cli

_OURS = "from calibzarr.cli import main; main()"
_BARE = f"""
import click
group = click.Group("calibzarr")
for name in {list(cli.commands)}:
    group.add_command(click.Command(name, callback=print, help="Do something."))
group()
"""


def _cpu_seconds(program: str) -> float:
    """User and system time of a process that prints help."""
    before = os.times()
    command = [sys.executable, "-c", program, "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )


def help_of_all_commands(settings: Settings) -> list[Figure]:
    """CPU time of ``calibzarr --help``."""
    times = np.array(
        [[_cpu_seconds(_OURS), _cpu_seconds(_BARE)] for _ in range(settings.turns(15, 3))]
    )
    return [
        Figure(
            "help", "CPU time of --help / of a bare group", times[:, 0] / times[:, 1], at_most=2
        ),
        Figure("help", "CPU time of --help / 0.3 s", times[:, 0] / 0.3, at_most=1),
    ]


ENTRIES: dict[str, Entry] = {"help": help_of_all_commands}

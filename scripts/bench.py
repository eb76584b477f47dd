"""Measure what calibzarr claims, each figure as a ratio to a baseline of the same run.

``python scripts/bench.py build`` runs all entries of one group. On Linux, MLX's wheel brings a
plain BLAS; put an OpenBLAS in its place:
``LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libopenblas.so.0 OPENBLAS_NUM_THREADS=1``.
"""

import json
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import click
from benchmarks.apart import run_apart
from benchmarks.measure import Entry, Figure, Settings, machine
from rich.console import Console
from rich.table import Table

GROUPS = {
    "build": "What a build and its store cost, against a file for each state.",
    "collect": "What observing layers and keeping their statistics cost.",
    "sensitivity": "What measuring sensitivities costs, and how near they are to the truth.",
    "advice": "Whether advised bits beat uniform bits, and predictions come true.",
    "analyze": "What analyzing and recommending cost, against a loop over layers.",
    "checkpoints": "What quantized checkpoints are worth, against uniform bits.",
    "verify": "What verifying a store costs, against reading it.",
    "damage": "Whether damage is found, mended, and never deadly: counts, not ratios.",
    "help": "What asking for help costs, against a bare group of click's.",
    "batch-memory": "Whether memory is estimated as it is taken.",
    "full-size": "What models of true size take, by hand: hours, and 20 GiB.",
    "legacy": "What moving to the old directory and back costs.",
}
"""Modules of ``benchmarks`` and what they measure."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Measure calibzarr's claims as ratios, in interleaved repetitions."""


def group_command(group: str, description: str) -> click.Command:
    """The command that runs the entries of one module of ``benchmarks``."""

    @click.command(name=group, help=description)
    @click.option("--entry", "names", multiple=True, help="Run this entry alone; repeatable.")
    @click.option("--quick", is_flag=True, help="Small sizes: see that it works, in seconds.")
    @click.option("--rounds", type=click.IntRange(1), help="Repetitions of what is timed.")
    @click.option(
        "--directory",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Where to write meanwhile; default: the system's temporary directory.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    def command(
        names: tuple[str, ...],
        quick: bool,
        rounds: int | None,
        directory: Path | None,
        as_json: bool,
    ) -> None:
        entries = _entries(group)
        for name in names:
            if name not in entries:
                raise click.BadParameter(
                    f"{name!r} is none of {', '.join(entries)}", param_hint="--entry"
                )
        with Settings(directory=directory).scratch() as scratch:
            settings = Settings(quick=quick, rounds=rounds, directory=Path(scratch))
            figures = run_apart(measure, group, names or tuple(entries), settings)
        if as_json:
            report = {"machine": machine(), "figures": [figure.as_json() for figure in figures]}
            click.echo(json.dumps(report, indent=2))
        else:
            console = Console(highlight=False)
            if not console.is_terminal:
                console.width = 170
            console.print(table(figures))

    return command


def _entries(group: str) -> Mapping[str, Entry]:
    entries: Mapping[str, Entry] = import_module(f"benchmarks.{group.replace('-', '_')}").ENTRIES
    return entries


def measure(group: str, names: Sequence[str], settings: Settings) -> list[Figure]:
    """Run entries of a group one after the other."""
    entries = _entries(group)
    figures: list[Figure] = []
    for name in names:
        start = time.perf_counter()
        figures += entries[name](settings)
        click.echo(f"measured {name} in {time.perf_counter() - start:.0f} s", err=True)
    return figures


def table(figures: list[Figure]) -> Table:
    """Figures as a table."""
    about = machine()
    title = f"{about['platform']}, {about['cpus']} CPUs, BLAS: {about['blas']}"
    columns = ("entry", "what", "measured", "quartiles", "target", "met?", "how")
    result = Table(*columns, title=title, box=None)
    for figure in figures:
        low, high = figure.spread
        result.add_row(
            figure.entry,
            figure.what,
            f"{figure.measured:.3g}",
            f"{low:.3g} to {high:.3g}" if len(figure.ratios) > 1 else "",
            _target(figure),
            {True: "yes", False: "NO", None: ""}[figure.met],
            figure.note,
        )
    return result


def _target(figure: Figure) -> str:
    if figure.at_most is not None:
        return f"<= {figure.at_most:g}"
    if figure.at_least is not None:
        return f">= {figure.at_least:g}"
    return ""


for _group, _description in GROUPS.items():
    cli.add_command(group_command(_group, _description))


if __name__ == "__main__":
    cli()

"""``calibzarr info`` and ``calibzarr models``: what is here."""

import json
from pathlib import Path
from typing import Any

import click

from calibzarr.commands.common import json_option, make_console, one_line_errors, store_argument


@click.command()
@store_argument
@json_option
@one_line_errors
def info(store: Path, as_json: bool) -> None:
    r"""Tell what STORE holds and how many of its images are complete.

    \b
    calibzarr info stores/tiny.zarr
    """
    from calibzarr.storage.info import describe

    description = describe(store)
    if as_json:
        click.echo(json.dumps(description, indent=2))
        return
    from rich.filesize import decimal
    from rich.table import Table

    table = Table(show_header=False, box=None)
    complete = f"{description['n_completed']} of {description['num_images']}"
    sizes = _grouped(description["bytes"])
    rows = {
        "store": description["path"],
        "complete images": complete,
        **{
            name: value
            for name, value in description["manifest"].items()
            if name not in ("libraries", "activations", "legacy_statistics")
        },
        "libraries": ", ".join(
            f"{name} {number}" for name, number in description["manifest"]["libraries"].items()
        ),
        "files": description["files"],
        "on disk": ", ".join(f"{name} {decimal(size)}" for name, size in sizes.items()),
        "collected": _collected(description["collected"]),
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    make_console(stderr=False).print(table)


def _grouped(sizes: dict[str, int]) -> dict[str, int]:
    """Bytes of what is large, of all statistics, and of the rest."""
    from calibzarr.storage import schema

    large = (schema.LATENTS.name, schema.DECODED.name)
    statistics = {variable.name for variable in schema.COLLECTED_VARIABLES}
    return {
        **{name: sizes.get(name, 0) for name in large},
        "statistics": sum(size for name, size in sizes.items() if name in statistics),
        "other": sum(s for name, s in sizes.items() if name not in (*large, *statistics)),
    }


def _collected(activations: dict[str, Any] | None) -> str:
    if activations is None:
        return "nothing yet"
    steps = ", ".join(map(str, activations["steps"]))
    return f"{activations['num_layers']} layers, {activations['num_images']} images, steps {steps}"


@click.command()
@one_line_errors
def models() -> None:
    """List the models and whether their weights are on this machine."""
    from rich.table import Table

    from calibzarr.models.registry import MODELS

    table = Table("model", "image size", "steps", "cfg weight", "weights", "description", box=None)
    table.columns[0].no_wrap = True
    for entry in MODELS.values():
        missing = entry.missing_files()
        weights = f"{len(missing)} files missing" if missing else "here"
        table.add_row(
            entry.name,
            str(entry.image_size),
            str(entry.num_steps),
            f"{entry.cfg_weight:g}",
            weights if entry.files else "embedded",
            entry.description,
        )
    make_console(stderr=False).print(table)

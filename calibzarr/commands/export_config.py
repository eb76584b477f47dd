"""``calibzarr export-config``."""

from pathlib import Path
from typing import Any

import click

from calibzarr.advice import choices
from calibzarr.commands.common import (
    make_console,
    one_line_errors,
    quiet_option,
    spelled,
    store_argument,
    with_targets,
)


@click.command(name="export-config")
@store_argument
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--method",
    type=click.Choice(choices.methods()),
    help="Fewest bits that reach the targets; least error at --mean-bits; or the old rule.  "
    "[default: sqnr, or budget with --mean-bits]",
)
@with_targets
@click.option("--mean-bits", type=float, help="Of budget: over activations, and over weights.")
@click.option(
    "--clip",
    type=click.Choice(choices.CLIPS),
    default="mse",
    show_default=True,
    help="How clipping ranges are chosen.",
)
@click.option(
    "--granularity",
    type=click.Choice(choices.GRANULARITIES),
    default="all",
    show_default=True,
    help="Rows of blocks, as the old files have, of linear layers, or both.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(choices.FILE_FORMATS),
    default="json",
    show_default=True,
    help="mlx: weight bits and group sizes by path, for mlx.nn.quantize.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@quiet_option
@one_line_errors
def export_config_command(
    store: Path,
    file: Path,
    method: str | None,
    file_format: choices.FileFormat,
    granularity: choices.Granularity,
    force: bool,
    **options: Any,
) -> None:
    """Recommend bits and clipping ranges from STORE's statistics, and write them to FILE.

    \b
    calibzarr export-config stores/tiny.zarr config.json
    calibzarr export-config stores/tiny.zarr config.json --mean-bits 6
    calibzarr export-config stores/tiny.zarr weights.json --format mlx
    """
    from calibzarr.export import config

    method = method or ("sqnr" if options["mean_bits"] is None else "budget")
    result = config.export(
        store,
        file,
        file_format=file_format,
        granularity=granularity,
        force=force,
        method=method,
        **options,
    )
    console = make_console()
    for warning in result.warnings:
        console.print(f"warning: {spelled(warning)}")
    click.echo(f"{file}: {result.num_layers} layers, {result.bits}")
    if file_format == "mlx":
        click.echo("load it into: mlx.nn.quantize(model, class_predicate=...)")

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
    "--groups",
    type=click.IntRange(1),
    help="Divide the steps into this many groups by their features, not into three phases.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=choices.TOLERANCE,
    show_default=True,
    help="How far polynomials in sigma may exceed the clipping range, as a part of it.",
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
@click.option(
    "--smoothquant-alpha",
    type=click.FloatRange(0, 1),
    default=choices.ALPHA,
    show_default=True,
    help="How much of the outliers' difficulty smoothing scales move to the weights.",
)
@click.option(
    "--features/--no-features",
    default=True,
    show_default=True,
    help="Keep advice for each feature in STORE.",
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
    smoothquant_alpha: float,
    features: bool,
    force: bool,
    **options: Any,
) -> None:
    """Recommend bits and clipping ranges from STORE's statistics, and write them to FILE.

    Shifts, smoothing scales and outliers of each feature become variables of STORE, named
    recommended_...; the file says where they are.

    \b
    calibzarr export-config stores/tiny.zarr config.json
    calibzarr export-config stores/tiny.zarr config.json --mean-bits 6 --groups 4
    calibzarr export-config stores/tiny.zarr weights.json --format mlx
    """
    from calibzarr.export import config

    method = method or ("sqnr" if options["mean_bits"] is None else "budget")
    result = config.export(
        store,
        file,
        file_format=file_format,
        granularity=granularity,
        smoothquant_alpha=smoothquant_alpha if features and file_format == "json" else None,
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
    elif result.features:
        click.echo(f"advice for each feature: xarray.open_zarr({str(store)!r}).recommended_shift")

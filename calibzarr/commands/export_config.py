"""``calibzarr export-config``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calibzarr.advice import choices
from calibzarr.commands.command import command
from calibzarr.commands.common import hint, make_console, store_argument, tell
from calibzarr.commands.spelling import spelled
from calibzarr.errors import Option

_TOLD_BITS = 0.005  # changes that are told

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calibzarr.advice.predicted import Lever


@command(
    "export-config",
    {
        "Bits": "method weight_bits activation_bits output_db keep",
        "Quantizers": "activation_quantizer weight_quantizer clip by_phase",
        "File": "file_format granularity force",
    },
)
@store_argument
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--method",
    type=click.Choice(choices.methods()),
    default="budget",
    show_default=True,
    help="budget: least error at mean bits; target: fewest bits with an error; uniform: the same "
    "bits everywhere; range: the old rule.",
)
@click.option(
    "--weight-bits",
    type=float,
    show_default="4; of target: the fewest",
    help="Mean over weights, scales counted.",
)
@click.option(
    "--activation-bits",
    type=float,
    show_default="8; of target: the fewest",
    help="Mean over activations.",
)
@click.option(
    "--activation-quantizer",
    type=click.Choice(choices.ACTIVATION_QUANTIZERS),
    default="tensor",
    show_default=True,
    help="One range for a tensor, or one for each token as it comes.",
)
@click.option(
    "--weight-quantizer",
    type=click.Choice(choices.WEIGHT_QUANTIZERS),
    show_default="row; of mlx files: mlx",
    help="One scale for a tensor or a row, or MLX's groups.",
)
@click.option(
    "--output-db",
    type=float,
    show_default="none; target needs it",
    help="SQNR of the guided output that target is to reach, dB.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="PATTERN",
    show_default="none",
    help="Leave layers of these names unquantized, such as 'final_layer.*'; may be repeated.",
)
@click.option(
    "--clip",
    type=click.Choice(choices.CLIPS),
    show_default="as the sensitivities were measured, or lp",
    help="How clipping ranges are chosen.",
)
@click.option(
    "--by-phase/--static",
    default=None,
    show_default="by phase where it can be",
    help="Quantize activations by phase of the sampling.",
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
def export_config_command(
    store: Path, file: Path, file_format: choices.FileFormat, **options: Any
) -> None:
    """Recommend bits and clipping ranges, and write them to FILE.

    They follow from the statistics and sensitivities of STORE.

    \b
    calibzarr export-config stores/tiny.zarr config.json
    calibzarr export-config stores/tiny.zarr w4a6.json --activation-bits 6
    calibzarr export-config stores/tiny.zarr a.json --method target --output-db 20
    calibzarr export-config stores/tiny.zarr weights.json --format mlx
    """
    from calibzarr.export import config

    result = config.export_config(store, file, file_format=file_format, **options)
    console = make_console()
    for warning in result.warnings:
        console.print(f"warning: {spelled(warning)}")
    tell(f"{file}: {result.num_layers} layers, {result.bits}")
    for line in _reached(result.prediction, weights_alone=file_format == "mlx"):
        tell(line)
    for lever in result.levers:
        hint(Option(lever.option, f"{lever.value:g}"), f": {_change(lever)}")
    if file_format == "mlx":
        tell("load it into: mlx.nn.quantize(model, class_predicate=...)")


def _change(lever: "Lever") -> str:
    """What another value of an option costs and gains."""
    weight, activation = lever.bits
    parts = [f"output SQNR {round(lever.output_db, 1) + 0.0:+.1f} dB"]
    if abs(weight) >= _TOLD_BITS:
        parts.append(f"{weight:+.2f} bits per weight, {lever.weight_bytes / 2**20:+.2f} MiB")
    if abs(activation) >= _TOLD_BITS:
        parts.append(f"{activation:+.2f} bits of activations")
    return ", ".join(parts)


def _reached(prediction: "Mapping[str, Any]", *, weights_alone: bool) -> list[str]:
    """Mean bits, bytes, and what is predicted, as far as it is known."""
    names = ("weight",) if weights_alone else ("weight", "activation")
    means = [f"{prediction[f'{name}_bits']:.3f} bits of {name}s" for name in names]
    size = prediction["weight_bytes"] / 2**20
    lines = [f"mean: {', '.join(means)}; {size:.2f} MiB of weights"]
    if weights_alone or prediction["output_sqnr_db"] is None:
        return lines
    figures = [f"output SQNR {prediction['output_sqnr_db']:.1f} dB"]
    if prediction["picture_psnr_db"] is not None:
        figures.append(f"picture PSNR {prediction['picture_psnr_db']:.1f} dB")
    lines.append(f"predicted: {', '.join(figures)}")
    gains = {"of the output": prediction["gain_db"], "of pictures": prediction["picture_gain_db"]}
    told = [f"{gain:+.1f} dB {kind}" for kind, gain in gains.items() if gain is not None]
    if told:
        lines.append(f"over uniform bits of equal cost: {', '.join(told)}")
    return lines

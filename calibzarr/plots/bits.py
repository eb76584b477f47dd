"""Pictures of bits: which are recommended, what they do to the output, how they go by phase."""

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from calibzarr.plots import drawing
from calibzarr.plots import layers as model_layers
from calibzarr.plots.drawing import SMALL, picture
from calibzarr.quantization.configuration import UNQUANTIZED
from calibzarr.quantization.levels import BITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.figure import Figure

_CELL = 0.23  # inches, of a table of bits
_ROW = 0.135  # inches, so that a layer's name fits
_NAMED = 100  # more layers than this are not named
_TALLEST = 11.0  # inches, with more
_BUDGETS = (4, 5, 6)  # mean bits that are drawn by phase
_SHOWN = (*BITS, UNQUANTIZED)
# Few bits are hot, many are cold, as in Paul Tol's sunset: colour-blind people can tell them apart.
_COLOURS = (
    *("#a50026", "#e34a33", "#fd9a5e", "#feda8b"),
    *("#c2e4ef", "#6ea6cd", "#364b9a", "#d9d9d9"),
)
_DARK = (2, 3, 8)  # bits whose colours take white text
_COSTS = {
    "weights": ("weight_bits", "mean bits of a weight, with scales"),
    "activations": ("activation_bits", "mean bits of an activation"),
    "both": ("weight_bits", "mean bits of weights, and of activations"),
}


@picture
def recommended_bits(recommended: xr.Dataset) -> "Figure":
    """Draw the recommended bits of every layer, by block and kind, with the number in each cell.

    Args:
        recommended: of ``recommendation.of_statistics``.
    """
    blocks = list(dict.fromkeys(recommended.block.values.tolist()))
    rows = _table_rows(recommended)
    figure = drawing.new_figure(
        recommended,
        "Recommended bits by block and kind",
        max(5.0, _CELL * len(blocks) + 2.2),
        2 * (_CELL * 0.9 * len(rows) + 0.4) + 2.2,
    )
    drawn = figure.subplots(2, 1, sharex=True)
    for axes, name in zip(drawn, ("activation", "weight"), strict=True):
        _draw_table(axes, recommended, f"{name}_bits", rows, blocks)
        axes.set_title(f"bits of {name}s")
    drawn[1].set_xticks(np.arange(len(blocks)), blocks, rotation=90)
    _explain_colours(figure)
    return figure


def _explain_colours(figure: "Figure") -> None:
    from matplotlib.patches import Patch

    words = [*(f"{bits} bits" for bits in BITS), "unquantized"]
    handles = [
        Patch(facecolor=colour, edgecolor="0.5", label=label)
        for colour, label in zip(_COLOURS, words, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)


def _colours_of_bits() -> "tuple[ListedColormap, BoundaryNorm]":
    from matplotlib.colors import BoundaryNorm, ListedColormap

    norm = BoundaryNorm([*(np.array(_SHOWN) - 0.5), UNQUANTIZED + 0.5], len(_SHOWN))
    return ListedColormap(_COLOURS), norm


def _table_rows(recommended: xr.Dataset) -> list[tuple[str, str]]:
    """Streams and kinds that there are layers of."""
    return [
        (stream, kind)
        for stream in model_layers.streams(recommended)
        for kind in model_layers.kinds(recommended)
        if ((recommended.stream == stream) & (recommended.kind == kind)).any()
    ]


def _draw_table(
    axes: "Axes",
    recommended: xr.Dataset,
    variable: str,
    rows: list[tuple[str, str]],
    blocks: list[str],
) -> None:
    """Bits by row and block."""
    table = np.full((len(rows), len(blocks)), np.nan)
    names = (recommended[name].values.tolist() for name in ("stream", "kind", "block"))
    for stream, kind, block, bits in zip(*names, recommended[variable].values, strict=True):
        table[rows.index((stream, kind)), blocks.index(block)] = bits
    colours, norm = _colours_of_bits()
    image = axes.imshow(
        np.ma.masked_invalid(table), cmap=colours, norm=norm, aspect="auto", origin="upper"
    )
    image.set_rasterized(True)  # as in heatmaps.range_by_sigma
    _write_bits(axes, table)
    axes.set_yticks(np.arange(len(rows)), [f"{stream} {kind}" for stream, kind in rows])
    changes = [i for i in range(1, len(rows)) if rows[i][0] != rows[i - 1][0]]
    axes.hlines(np.array(changes) - 0.5, -0.5, len(blocks) - 0.5, color="black", lw=0.8)
    axes.tick_params(length=0)


def _write_bits(axes: "Axes", table: np.ndarray) -> None:
    """Numbers in cells, but of what is unknown."""
    for row, column in np.argwhere(~np.isnan(table)).tolist():
        bits = int(table[row, column])
        axes.text(
            column,
            row,
            str(bits),
            ha="center",
            va="center",
            fontsize=SMALL,
            color="white" if bits in _DARK else "black",
        )


@picture
def predicted_by_bits(recommended: xr.Dataset, predicted: xr.Dataset) -> "Figure":
    """Draw what uniform bits and a budget of the same cost do to output and pictures.

    Args:
        recommended: of ``recommendation.of_statistics``.
        predicted: of ``by_bits.of_model``.
    """
    figure = drawing.new_figure(
        recommended, "Predicted by the sensitivities, against mean bits", 9.0, 5.6
    )
    drawn = figure.subplots(2, len(_COSTS), sharex="col", sharey="row")
    styles = {"uniform": (drawing.BLUE, "o", "--"), "budget": (drawing.ORANGE, "s", "-")}
    for column, (what, (cost, label)) in enumerate(_COSTS.items()):
        drawn[0, column].set_title(what)
        drawn[1, column].set_xlabel(label)
        for axes, name in zip(drawn[:, column], ("output_sqnr_db", "picture_psnr_db"), strict=True):
            for allocation, (colour, marker, line) in styles.items():
                values = predicted[name].sel(quantized=what, allocation=allocation).values
                axes.plot(
                    predicted[cost].values,
                    np.where(np.isfinite(values), values, np.nan),
                    color=colour,
                    marker=marker,
                    linestyle=line,
                    markersize=4,
                    label=f"{allocation} bits" if allocation == "uniform" else "budget",
                )
            axes.grid(alpha=0.3)
    drawn[0, 0].set_ylabel("SQNR of the guided output (dB)")
    drawn[1, 0].set_ylabel("PSNR of pictures (dB)")
    handles, labels = drawn[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


@picture
def bits_by_phase(recommended: xr.Dataset, predicted: xr.Dataset) -> "Figure":
    """Draw the bits of every linear layer's inputs in every phase, under budgets.

    Layers that read one array are drawn once.

    Args:
        recommended: of ``recommendation.of_statistics``.
        predicted: of ``by_bits.of_model``, with activations by phase.
    """
    under_budgets = ("bits", "layer", "phase"), predicted.phase_bits.values
    shown = recommended.assign(under_budgets=under_budgets).assign_coords(bits=predicted.bits)
    shown = model_layers.together(shown.isel(layer=np.flatnonzero(shown.role.values == "input")))
    layers, phases = shown.layer.values, shown.phase.values
    height = max(2.5, _ROW * len(layers)) if len(layers) <= _NAMED else _TALLEST
    figure = drawing.new_figure(
        recommended, "Bits of activations by phase, under budgets", 6.6, height + 1.6
    )
    colours, norm = _colours_of_bits()
    drawn = figure.subplots(1, len(_BUDGETS), sharey=True)
    for axes, mean in zip(drawn, _BUDGETS, strict=True):
        bits = shown.under_budgets.sel(bits=mean).values
        image = axes.imshow(bits, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
        image.set_rasterized(True)  # as in heatmaps.range_by_sigma
        if len(layers) <= _NAMED:
            _write_bits(axes, bits)
        axes.set_xticks(np.arange(len(phases)), phases)
        axes.set_title(f"a mean of {mean} bits")
    if len(layers) <= _NAMED:
        drawn[0].set_yticks(np.arange(len(layers)), layers, fontsize=drawing.SMALL - 1)
    else:
        drawn[0].set_ylabel("layer, in the order of the model")
    _explain_colours(figure)
    return figure

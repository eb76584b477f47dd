"""Pictures of what bits do to the output, and where a budget spends them over the sampling."""

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from calibzarr.plots import drawing
from calibzarr.plots.drawing import picture
from calibzarr.quantization.levels import BITS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW = 0.135  # inches, so that a layer's name fits
_NAMED = 100  # more layers than this are not named
_TALLEST = 11.0  # inches, with more
_BUDGETS = (4, 5, 6)  # mean bits that are drawn by phase
_COSTS = {
    "weights": ("weight_bits", "mean bits of a weight, with scales"),
    "activations": ("activation_bits", "mean bits of an activation"),
    "both": ("weight_bits", "mean bits of weights, and of activations"),
}


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

    Args:
        recommended: of ``recommendation.of_statistics``.
        predicted: of ``by_bits.of_model``, with activations by phase.
    """
    import matplotlib
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    linear = np.flatnonzero(recommended.role.values == "input")
    layers, phases = recommended.layer.values[linear], recommended.phase.values
    height = max(2.5, _ROW * len(layers)) if len(layers) <= _NAMED else _TALLEST
    figure = drawing.new_figure(
        recommended, "Bits of activations by phase, under budgets", 6.6, height + 1.6
    )
    colours = ListedColormap(matplotlib.colormaps["cividis"](np.linspace(0.1, 1, len(BITS))))
    norm = BoundaryNorm([*(np.array(BITS) - 0.5), BITS[-1] + 0.5], len(BITS))
    drawn = figure.subplots(1, len(_BUDGETS), sharey=True)
    for axes, mean in zip(drawn, _BUDGETS, strict=True):
        bits = predicted.phase_bits.sel(bits=mean).values[linear]
        image = axes.imshow(
            np.ma.masked_outside(bits, BITS[0], BITS[-1]),
            cmap=colours.with_extremes(bad="0.85"),
            norm=norm,
            aspect="auto",
            interpolation="nearest",
        )
        image.set_rasterized(True)  # as in ranges.range_by_sigma
        axes.set_xticks(np.arange(len(phases)), phases)
        axes.set_title(f"a mean of {mean} bits")
    if len(layers) <= _NAMED:
        drawn[0].set_yticks(np.arange(len(layers)), layers, fontsize=drawing.SMALL - 1)
    else:
        drawn[0].set_ylabel("layer, in the order of the model")
    figure.legend(
        handles=[
            *(Patch(facecolor=colours(norm(n)), edgecolor="0.5", label=f"{n} bits") for n in BITS),
            Patch(facecolor="0.85", edgecolor="0.5", label="unquantized"),
        ],
        loc="outside lower center",
        ncols=4,
    )
    return figure

"""Pictures of what is expected: SQNR against bits, and whether the images were enough."""

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from calibzarr.advice import analysis
from calibzarr.plots import drawing
from calibzarr.plots import layers as model_layers
from calibzarr.plots.drawing import picture
from calibzarr.quantization.configuration import UNQUANTIZED
from calibzarr.statistics.convergence import TOLERANCE, range_curve

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAND = (0.1, 0.9)  # quantiles over layers
_SIZES = 40  # numbers of images that a curve is computed at
_WORST = 3


@picture
def sqnr_by_bits(analyzed: xr.Dataset, recommended: xr.Dataset | None = None) -> "Figure":
    """Draw the expected SQNR of activations and weights against bits, by kind of layer.

    Args:
        analyzed: of ``analysis.of_statistics``.
        recommended: of ``recommendation.of_statistics``; with it, the mean of the recommended
            bits is marked.
    """
    kinds = model_layers.kinds(analyzed)
    panels = drawing.panels(
        analyzed,
        "Expected SQNR against bits, each with its best clipping range",
        len(kinds),
        columns=4,
        size=(2.6, 2.3),
        margin=(0.6, 1.2),
    )
    handles: dict[str, Artist] = {}
    for index, (axes, kind) in enumerate(zip(panels.axes, kinds, strict=True)):
        rows = np.flatnonzero(analyzed.kind.values == kind)
        _draw_kind(axes, analyzed.isel(layer=rows), kind)
        if recommended is not None:
            _mark_recommended(axes, recommended.isel(layer=rows))
        if panels.at_bottom(index):
            axes.set_xlabel("bits")
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    drawn = [axes for axes in panels.axes if axes.lines]
    ends = np.array([axes.dataLim.intervaly for axes in drawn])
    for axes in drawn:
        axes.set_ylim(min(0, ends.min()) - 2, ends.max() + 2)
    panels.figure.supylabel("SQNR (dB)", fontsize=8)
    if handles:
        panels.figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    return panels.figure


def _draw_kind(axes: "Axes", layers: xr.Dataset, kind: str) -> None:
    """Layers of one kind, and the one whose activations are worst."""
    axes.set_title(f"{kind} ({layers.sizes['layer']})", pad=14)
    bits, sqnr = layers.bits.values, layers.sqnr_db.values
    drew = [
        _draw_sqnr(axes, bits, values, label, colour, marker)
        for label, values, colour, marker in (
            ("activations", sqnr, drawing.BLUE, "o"),
            ("weights", layers.weight_sqnr_db.values, drawing.ORANGE, "s"),
        )
    ]
    if not any(drew):
        drawing.say(axes)
        return
    worst = _worst(sqnr[:, -1])
    if worst is not None and len(sqnr) > 1:
        _note(axes, f"worst activations: {layers.layer.values[worst]}")
        curve, label = _finite(sqnr[worst]), "activations, worst layer"
        axes.plot(bits, curve, color=drawing.RED, ls="--", lw=1.2, label=label)
    axes.set_xticks(bits)
    axes.grid(alpha=0.3)


def _mark_recommended(axes: "Axes", recommended: xr.Dataset) -> None:
    """Lines at the mean of the bits of the layers that are quantized."""
    for name, colour in (("activation", drawing.BLUE), ("weight", drawing.ORANGE)):
        bits = recommended[f"{name}_bits"].values
        quantized = bits[bits != UNQUANTIZED]
        if axes.lines and len(quantized):
            label = f"{name}s, mean of the recommended bits"
            axes.axvline(quantized.mean(), color=colour, ls=":", lw=1.2, label=label)


def _finite(values: np.ndarray) -> np.ndarray:
    """NaN in the place of infinities: no error at all cannot be drawn."""
    return np.where(np.isfinite(values), values, np.nan)


def _draw_sqnr(
    axes: "Axes", bits: np.ndarray, values: np.ndarray, label: str, colour: str, marker: str
) -> bool:
    """Median and band over layers, shape (layer, bits); whether there was anything to draw."""
    known = _finite(values)
    known = known[np.isfinite(known).all(axis=1)]
    if not len(known):
        return False
    low, middle, high = np.quantile(known, [_BAND[0], 0.5, _BAND[1]], axis=0)
    if len(known) > 1:
        share = f"{_BAND[1] - _BAND[0]:.0%} of layers"
        axes.fill_between(
            bits, low, high, color=colour, alpha=0.25, linewidth=0, label=f"{label}, {share}"
        )
    axes.plot(
        bits, middle, color=colour, marker=marker, markersize=3, label=f"{label}, median layer"
    )
    return True


def _worst(values: np.ndarray) -> int | None:
    known = np.isfinite(values)
    return int(np.where(known, values, np.inf).argmin()) if known.any() else None


def _note(axes: "Axes", text: str) -> None:
    """A small line between an axes and its title."""
    axes.annotate(
        text, (0, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", fontsize=6
    )


def curves(statistics: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of images, and the share of each layer's range that they show at its worst step.

    Args:
        statistics: of ``reading.open_statistics``.

    Returns:
        Shapes (size,) and (layer, size).
    """
    images = statistics.sizes["image"]
    sizes = np.unique(np.geomspace(1, images, _SIZES).round().astype(int))
    shares = range_curve(statistics.image_min.values, statistics.image_max.values, sizes)
    return sizes, np.fmin.reduce(shares, axis=1)


@picture
def convergence(statistics: xr.Dataset) -> "Figure":
    """Draw how much of the range that all images show fewer of them would have shown.

    Args:
        statistics: of ``reading.open_statistics``.
    """
    figure = drawing.new_figure(statistics, "Range against number of images", 7.2, 4.6)
    axes = figure.add_subplot()
    images = statistics.sizes["image"]
    if images < 2:
        drawing.say(axes, "one image: nothing to compare it with")
        return figure
    sizes, shares = curves(statistics)
    names = statistics.layer.values
    known = np.isfinite(shares).all(axis=1)
    names, shares = names[known], shares[known]
    if not len(shares):
        drawing.say(axes)
        return figure
    low, middle, high = np.quantile(shares, [_BAND[0], 0.5, _BAND[1]], axis=0)
    axes.fill_between(
        sizes,
        low,
        high,
        color=drawing.BLUE,
        alpha=0.25,
        linewidth=0,
        label=f"{_BAND[1] - _BAND[0]:.0%} of {len(shares)} layers",
    )
    axes.plot(sizes, middle, color=drawing.BLUE, linewidth=2, label="median layer")
    at_half = shares[:, np.abs(sizes - images / 2).argmin()]
    styles = ((drawing.RED, "--"), (drawing.PURPLE, "-."), (drawing.GREEN, ":"))
    worst = model_layers.most(-at_half, analysis.shared_inputs(statistics)[known], _WORST)
    for layer, (colour, line) in zip(worst, styles, strict=False):
        axes.plot(sizes, shares[layer], color=colour, linestyle=line, label=str(names[layer]))
    axes.plot(
        [images / 2],
        [1 / (1 + TOLERANCE)],
        ls="",
        marker="^",
        color="black",
        label=f"enough if above: half of the images add at most {TOLERANCE:.0%}",
    )
    drawing.scale(axes, "x", sizes)
    axes.set_ylim(min(0.9, float(shares.min()) - 0.03), 1.01)
    axes.set_xlabel("number of images")
    axes.set_ylabel("expected range over that of all images,\nat the worst step of each layer")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    return figure

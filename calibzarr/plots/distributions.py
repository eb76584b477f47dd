"""Pictures of how a few layers' values are distributed over the sampling."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from calibzarr.advice import analysis, observed
from calibzarr.errors import check_known
from calibzarr.plots import drawing
from calibzarr.plots import layers as model_layers
from calibzarr.plots.drawing import POINTS_PER_INCH, picture
from calibzarr.quantization.configuration import UNQUANTIZED
from calibzarr.quantization.histograms import Histograms
from calibzarr.statistics.histogram import LogBins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

UNITS = "value (activation units); logarithmic away from 0"
_RIDGES = 17  # steps of one panel at most
_CELLS = 120  # intervals of one ridge
_PEAK = 1.6  # height of every ridge, in distances of two
_LINEAR = 0.5  # quantile of magnitudes at which the axis turns logarithmic


def ridge_layers(statistics: xr.Dataset, analyzed: xr.Dataset) -> dict[str, str]:
    """At most four layers whose values are worth a look, and why each of them is.

    Those of greatest ``sigma_variation`` and ``outlier_ratio``, of lowest SQNR at 8 bits, and the
    layer behind a GELU of greatest outlier ratio; of those that read one array only one.

    Args:
        statistics: of ``reading.open_statistics``.
        analyzed: of ``analysis.of_statistics``.
    """
    alike = analysis.shared_inputs(statistics)
    sqnr = analyzed.sqnr_db.sel(bits=8).values
    behind_gelu = np.where(analyzed.post_gelu, analyzed.outlier_ratio, np.nan)
    wanted = (
        (analyzed.sigma_variation.values, "range moves most with sigma: {:.3g} times"),
        (analyzed.outlier_ratio.values, "greatest outlier ratio: {:.3g}"),
        (-sqnr, "lowest SQNR at 8 bits: {:.3g} dB"),
        (behind_gelu, "behind a GELU: outlier ratio {:.3g}"),
    )
    found: dict[int, str] = {}
    for values, text in wanted:
        finite = np.where(np.isfinite(values), values, np.nan)
        for layer in model_layers.most(finite, alike, 1, without=list(found)):
            found[layer] = text.format(abs(finite[layer]))
    return {str(analyzed.layer.values[layer]): text for layer, text in found.items()}


@picture
def histograms(
    statistics: xr.Dataset,
    analyzed: xr.Dataset,
    layers: Sequence[str] | None = None,
    activations: Histograms | None = None,
    recommended: xr.Dataset | None = None,
) -> "Figure":
    """Draw the distribution of a few layers' values at each step, one above the other.

    A ridge is the probability density along the drawn axis, which is linear near 0 and
    logarithmic far from it, over its own peak. The line below it goes from the least value to
    the greatest.

    Args:
        statistics: of ``reading.open_statistics``.
        analyzed: of ``analysis.of_statistics``.
        layers: names; those of :func:`ridge_layers` if None.
        activations: the statistics' layers and steps, where they are in memory already.
        recommended: of ``recommendation.of_statistics``; with it, clipping ranges are drawn.

    Raises:
        OptionError: if there is no layer of a name; says which are like it.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D

    reasons = named_layers(statistics, analyzed, layers)
    step = np.unique(np.linspace(0, len(analyzed.step) - 1, _RIDGES).round().astype(int))
    height = float(np.clip(0.22 * len(step), 1.8, 4.0))
    panels = drawing.panels(
        analyzed,
        "Distributions of values over the sampling",
        len(reasons),
        columns=2,
        size=(5, height),
        margin=(1, 1.5),
    )
    if not reasons:
        return panels.figure
    rows = _rows(statistics, list(reasons), activations)
    sigma = analyzed.sigma.values
    norm = Normalize(0, float(sigma.max()) or 1)
    for row, (axes, (name, reason)) in enumerate(zip(panels.axes, reasons.items(), strict=True)):
        _draw_ridges(axes, rows.at(row), sigma, step, norm)
        if recommended is not None and not axes.texts:
            clips = _clips(recommended.sel(layer=name), analyzed.step.values[step])
            _draw_clips(axes, clips)
        axes.set_title(f"{name}\n{reason}" if reason else name)
        if panels.at_bottom(row):
            axes.set_xlabel(UNITS)
    panels.figure.supylabel("sigma, falling downwards as the sampling goes", fontsize=8)
    if recommended is not None:
        label = "clipping range at the recommended bits"
        line = Line2D([], [], color=drawing.RED, lw=1.2, label=label)
        panels.figure.legend(handles=[line], loc="outside lower center")
    panels.figure.colorbar(
        ScalarMappable(norm, "viridis"), ax=panels.axes, label="sigma", aspect=40, pad=0.02
    )
    return panels.figure


def _clips(layer: xr.Dataset, step: np.ndarray) -> np.ndarray:
    """Ends of a layer's clipping range at some steps, shape (end, step); NaN where it has none."""
    if int(layer.activation_bits) == UNQUANTIZED:
        return np.full((2, len(step)), np.nan)
    if not layer.attrs["by_phase"] or not (layer.phase_bits.values > 0).all():
        ends = float(layer.clip_min), float(layer.clip_max)
        return np.repeat(np.array(ends)[:, None], len(step), axis=1)
    phase = np.searchsorted(layer.end_step.values[:-1], step, side="right")
    return np.stack([layer.phase_clip_min.values[phase], layer.phase_clip_max.values[phase]])


def _draw_clips(axes: "Axes", clips: np.ndarray) -> None:
    """Lines at the ends of clipping ranges, each as high as a ridge."""
    base = np.arange(clips.shape[1])[::-1]
    low, high = axes.get_xlim()
    for ends in clips:
        inside = (ends > low) & (ends < high)
        axes.vlines(ends[inside], base[inside], base[inside] + 1, color=drawing.RED, lw=1.2)


def named_layers(
    statistics: xr.Dataset, analyzed: xr.Dataset, layers: Sequence[str] | None
) -> Mapping[str, str]:
    """Layers to draw, each with a reason or none; telling ones if None are named.

    Raises:
        OptionError: if there is no layer of a name; says which are like it.
    """
    if layers is None:
        return ridge_layers(statistics, analyzed)
    there = [str(name) for name in analyzed.layer.values]
    for name in layers:
        check_known("layer", name, there)
    return dict.fromkeys(layers, "")


def _rows(
    statistics: xr.Dataset, names: Sequence[str], activations: Histograms | None
) -> Histograms:
    """The layers of these names at every collected step."""
    if activations is None:
        return observed.activations(statistics.sel(layer=list(names)))
    there = statistics.layer.values.tolist()
    return activations.at([there.index(name) for name in names])


def _draw_ridges(
    axes: "Axes", layer: Histograms, sigma: np.ndarray, step: np.ndarray, norm: "Normalize"
) -> None:
    """Ridges of one layer; its arrays have shape (step, ...)."""
    import matplotlib

    reach = np.fmax.reduce(np.fmax(np.abs(layer.value_min), np.abs(layer.value_max)))
    if not reach > 0:
        drawing.say(axes)
        return
    width = _linear_width(layer, float(reach))
    ends = [float(np.fmin.reduce(layer.value_min)), float(np.fmax.reduce(layer.value_max))]
    low, high = np.arcsinh(np.array(ends) / width)
    margin = 0.02 * (high - low) or 0.1
    edges = np.linspace(low - margin, high + margin, _CELLS + 1)
    density = densities(layer.counts[step], layer.bins, width * np.sinh(edges)) / np.diff(edges)
    middles = width * np.sinh((edges[1:] + edges[:-1]) / 2)
    peaks = np.fmax.reduce(density, axis=1, keepdims=True)
    heights = density * (_PEAK / np.where(peaks > 0, peaks, 1))
    colours = matplotlib.colormaps["viridis"]
    for base, index, ridge in zip(range(len(step) - 1, -1, -1), step, heights, strict=True):
        if np.isnan(layer.value_min[index]):
            continue
        colour = colours(norm(sigma[index]))
        axes.fill_between(middles, base, base + ridge, color=colour, alpha=0.75, linewidth=0)
        axes.plot(middles, base + ridge, color="black", linewidth=0.5)
        span = [layer.value_min[index], layer.value_max[index]]
        axes.plot(span, [base, base], color="black", linewidth=0.6, marker="|", markersize=4)
    ticks = drawing.thinned(len(step), 20, 1)
    axes.set_yticks(len(step) - 1 - ticks, [f"{sigma[step[tick]]:.3g}" for tick in ticks])
    axes.set_ylim(-0.5, len(step) - 1 + _PEAK * 1.05)
    drawing.scale_signed(axes, "x", width, max(np.abs(ends)), 4.2 * POINTS_PER_INCH)
    axes.set_xlim(width * np.sinh(edges[0]), width * np.sinh(edges[-1]))
    axes.grid(axis="x", alpha=0.3)


def _linear_width(layer: Histograms, reach: float) -> float:
    """Where the axis turns logarithmic: at the median magnitude of the values, activation units."""
    total = layer.counts.sum(axis=0)
    centre = layer.bins.per_sign
    folded = total[centre:].copy()
    folded[1:] += total[centre - 1 :: -1]
    middle = int(np.searchsorted(folded.cumsum(), _LINEAR * folded.sum()))
    edges = np.append(layer.bins.high[centre:-1], reach)
    return float(np.clip(edges[min(middle, len(edges) - 1)], reach / 1e6, reach))


def densities(counts: np.ndarray, bins: LogBins, edges: np.ndarray) -> np.ndarray:
    """Share of the values between neighbouring edges, those of a bin spread evenly over it.

    Args:
        counts: shape (row, bin), integer.
        bins: of the counts.
        edges: rising, shape (edge,), activation units.

    Returns:
        Shape (row, edge - 1); NaN where nothing was counted.
    """
    finite = bins.high[:-1]
    index = np.clip(np.searchsorted(finite, edges), 1, len(finite) - 1)
    before, after = finite[index - 1], finite[index]
    share = np.clip((edges - before) / (after - before), 0, 1)
    below = counts.cumsum(axis=1)
    at_edges = below[:, index - 1] + share * (below[:, index] - below[:, index - 1])
    total = below[:, -1:].astype(np.float64)
    # What the two open bins hold lies beyond their finite edges.
    at_edges = np.where(edges < finite[0], 0, np.where(edges > finite[-1], total, at_edges))
    return np.diff(at_edges, axis=1) / np.where(total > 0, total, np.nan)

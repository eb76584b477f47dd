"""Pictures of a few layers' values over the sampling: histograms, and where to clip them."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from calibzarr.advice import analysis, recommendation
from calibzarr.advice.analysis import Observed
from calibzarr.advice.methods.base import CHOICES
from calibzarr.errors import check_known
from calibzarr.plots import drawing
from calibzarr.plots.drawing import POINTS_PER_INCH, picture
from calibzarr.quantization import sigma_polynomial
from calibzarr.statistics.histogram import LogBins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_UNITS = "value (activation units)"
_RIDGES = 17  # steps of one panel at most
_CELLS = 120  # intervals of one ridge
_PEAK = 1.6  # height of every ridge, in distances of two
_LINEAR = 0.5  # quantile of magnitudes at which the axis turns logarithmic
_CLIPPED_LAYERS = 4
_STUB = 0.2  # half the length of a line in sigma that has only one
_FAR = 4.0  # values so many times beyond the usual clipping range need a logarithmic axis


def ridge_layers(statistics: xr.Dataset, analyzed: xr.Dataset) -> dict[str, str]:
    """At most four layers whose values are worth a look, and why each of them is.

    Those of greatest ``sigma_variation`` and ``outlier_ratio``, of lowest SQNR at 8 bits, and the
    layer behind a GELU that a shift would help most; of those that read one array only one.

    Args:
        statistics: of ``reading.open_statistics``.
        analyzed: of ``analysis.of_statistics``.
    """
    alike = analysis.shared_inputs(statistics)
    sqnr = analyzed.sqnr_db.sel(bits=8).values
    behind_gelu = np.where(analyzed.post_gelu, analyzed.shift_gain, np.nan)
    wanted = (
        (analyzed.sigma_variation.values, "range moves most with sigma: {:.3g} times"),
        (analyzed.outlier_ratio.values, "greatest outlier ratio: {:.3g}"),
        (-sqnr, "lowest SQNR at 8 bits: {:.3g} dB"),
        (behind_gelu, "behind a GELU: range over that after a shift {:.3g}"),
    )
    found: dict[int, str] = {}
    for values, text in wanted:
        finite = np.where(np.isfinite(values), values, np.nan)
        for layer in drawing.most(finite, alike, 1, without=list(found)):
            found[layer] = text.format(abs(finite[layer]))
    return {str(analyzed.layer.values[layer]): text for layer, text in found.items()}


@picture
def histograms(
    statistics: xr.Dataset,
    analyzed: xr.Dataset,
    layers: Sequence[str] | None = None,
    observed: Observed | None = None,
) -> "Figure":
    """Draw the distribution of a few layers' values at each step, one above the other.

    A ridge is the probability density along the drawn axis, which is linear near 0 and
    logarithmic far from it, over its own peak. The line below it goes from the least value to
    the greatest.

    Args:
        statistics: of ``reading.open_statistics``.
        analyzed: of ``analysis.of_statistics``.
        layers: names; those of :func:`ridge_layers` if None.
        observed: the statistics' layers and steps, where they are in memory already.

    Raises:
        OptionError: if there is no layer of a name; says which are like it.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    reasons = _named(statistics, analyzed, layers)
    rows_of = list(reasons)
    columns = min(2, max(1, len(rows_of)))
    rows = -(-max(1, len(rows_of)) // columns)
    step = np.unique(np.linspace(0, len(analyzed.step) - 1, _RIDGES).round().astype(int))
    height = float(np.clip(0.22 * len(step), 1.8, 4.0))
    figure = drawing.new_figure(
        analyzed, "Distributions of values over the sampling", 5 * columns + 1, height * rows + 1.5
    )
    drawn = drawing.panels(figure, max(1, len(rows_of)), columns)
    if not rows_of:
        drawing.say(drawn[0])
        return figure
    own = _rows(statistics, rows_of, observed)
    sigma = analyzed.sigma.values
    norm = Normalize(0, float(sigma.max()) or 1)
    for row, (axes, name) in enumerate(zip(drawn, rows_of, strict=True)):
        _draw_ridges(axes, _at(own, row), sigma, step, norm)
        axes.set_title(f"{name}\n{reasons[name]}" if reasons[name] else name)
        if row >= len(rows_of) - columns:
            axes.set_xlabel(_UNITS)
    figure.supylabel("sigma, falling downwards as the sampling goes", fontsize=8)
    figure.colorbar(ScalarMappable(norm, "viridis"), ax=drawn, label="sigma", aspect=40, pad=0.02)
    return figure


def _named(
    statistics: xr.Dataset, analyzed: xr.Dataset, layers: Sequence[str] | None
) -> Mapping[str, str]:
    """Layers to draw, each with a reason or none."""
    if layers is None:
        return ridge_layers(statistics, analyzed)
    there = [str(name) for name in analyzed.layer.values]
    for name in layers:
        check_known("layer", name, there)
    return dict.fromkeys(layers, "")


def _rows(statistics: xr.Dataset, names: Sequence[str], observed: Observed | None) -> Observed:
    """The layers of these names at every collected step."""
    if observed is None:
        return Observed.of(statistics.sel(layer=list(names)))
    place = [statistics.layer.values.tolist().index(name) for name in names]
    return _at(observed, place)


def _at(observed: Observed, place: int | list[int]) -> Observed:
    """Some layers, or one without its axis."""
    arrays = [field.name for field in fields(observed) if field.name != "bins"]
    return replace(observed, **{name: getattr(observed, name)[place] for name in arrays})


def _draw_ridges(
    axes: "Axes", layer: Observed, sigma: np.ndarray, step: np.ndarray, norm: object
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
    for place, (own, ridge) in enumerate(zip(step, heights, strict=True)):
        if np.isnan(layer.value_min[own]):
            continue
        base = len(step) - 1 - place
        colour = colours(norm(sigma[own]))  # type: ignore[operator]
        axes.fill_between(middles, base, base + ridge, color=colour, alpha=0.75, linewidth=0)
        axes.plot(middles, base + ridge, color="black", linewidth=0.5)
        span = [layer.value_min[own], layer.value_max[own]]
        axes.plot(span, [base, base], color="black", linewidth=0.6, marker="|", markersize=4)
    ticks = drawing.thinned(len(step), 20, 1)
    axes.set_yticks(len(step) - 1 - ticks, [f"{sigma[step[place]]:.3g}" for place in ticks])
    axes.set_ylim(-0.5, len(step) - 1 + _PEAK * 1.05)
    drawing.scale_signed(axes, "x", width, max(np.abs(ends)), 4.2 * POINTS_PER_INCH)
    axes.set_xlim(width * np.sinh(edges[0]), width * np.sinh(edges[-1]))
    axes.grid(axis="x", alpha=0.3)


def _linear_width(layer: Observed, reach: float) -> float:
    """Where the axis turns logarithmic: at the median magnitude of the values, activation units."""
    total = layer.counts.sum(axis=0)
    centre = layer.bins.per_sign
    folded = total[centre:].copy()
    folded[1:] += total[centre - 1 :: -1]
    place = int(np.searchsorted(folded.cumsum(), _LINEAR * folded.sum()))
    edges = np.append(layer.bins.high[centre:-1], reach)
    return float(np.clip(edges[min(place, len(edges) - 1)], reach / 1e6, reach))


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
    place = np.clip(np.searchsorted(finite, edges), 1, len(finite) - 1)
    before, after = finite[place - 1], finite[place]
    part = np.clip((edges - before) / (after - before), 0, 1)
    below = counts.cumsum(axis=1)
    at_edges = below[:, place - 1] + part * (below[:, place] - below[:, place - 1])
    total = below[:, -1:].astype(np.float64)
    # What the two open bins hold lies beyond their finite edges.
    at_edges = np.where(edges < finite[0], 0, np.where(edges > finite[-1], total, at_edges))
    return np.diff(at_edges, axis=1) / np.where(total > 0, total, np.nan)


def clipped_layers(statistics: xr.Dataset, analyzed: xr.Dataset) -> list[str]:
    """The layers whose range moves most with sigma, of those that read one array only the first."""
    variation = analyzed.sigma_variation.values
    chosen = drawing.most(
        np.where(np.isfinite(variation), variation, np.nan),
        analysis.shared_inputs(statistics),
        _CLIPPED_LAYERS,
    )
    return [str(name) for name in analyzed.layer.values[chosen]]


@picture
def clipping_by_sigma(
    statistics: xr.Dataset,
    analyzed: xr.Dataset,
    recommended: xr.Dataset,
    layers: Sequence[str] | None = None,
    observed: Observed | None = None,
) -> "Figure":
    """Draw where a few layers are to be clipped: asked at each step, and what is recommended.

    Args:
        statistics: of ``reading.open_statistics``.
        analyzed: of ``analysis.of_statistics``.
        recommended: of ``recommendation.of_statistics``.
        layers: names; those of :func:`clipped_layers` if None.
        observed: the statistics' layers and steps, where they are in memory already.

    Raises:
        OptionError: if there is no layer of a name; says which are like it.
    """
    names = (
        clipped_layers(statistics, analyzed)
        if layers is None
        else list(_named(statistics, analyzed, layers))
    )
    columns = min(2, max(1, len(names)))
    rows = -(-max(1, len(names)) // columns)
    figure = drawing.new_figure(
        analyzed, "Clipping ranges over the sampling", 4.8 * columns, 2.9 * rows + 1.2
    )
    drawn = drawing.panels(figure, max(1, len(names)), columns)
    if not names:
        drawing.say(drawn[0])
        return figure
    own = _rows(statistics, names, observed)
    chosen = recommended.sel(layer=names)
    index = np.searchsorted(CHOICES, chosen.activation_bits.values)
    every = recommendation.clipping_ranges(own, recommended.attrs["options"])
    asked = [np.take_along_axis(ends, index[:, None, None], axis=-1)[..., 0] for ends in every]
    sigma = analyzed.sigma.values.astype(np.float64)
    for row, axes in enumerate(drawn):
        one = chosen.isel(layer=row)
        _draw_observed(axes, sigma, own.value_min[row], own.value_max[row])
        _draw_recommended(axes, analyzed, one)
        for ends, label in zip(asked, ("asked at each step", "_upper"), strict=True):
            axes.plot(sigma, ends[row], ls="", marker=".", markersize=5, color="black", label=label)
        _scale_clipping(axes, [ends[row] for ends in asked], own, row)
        drawing.sigma_axis(axes, sigma, label=row >= len(names) - columns)
        axes.grid(alpha=0.3)
        by_phase = ", ".join(
            f"{bits} {name}"
            for name, bits in zip(chosen.phase.values, one.phase_bits.values, strict=True)
            if bits
        )
        text = f"{names[row]}\n{int(one.activation_bits)} bits; by phase: {by_phase}"
        axes.set_title(text if one.polynomial_met else f"{text}; polynomial too wide")
    figure.supylabel(_UNITS, fontsize=8)
    handles, labels = drawn[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _draw_observed(
    axes: "Axes", sigma: np.ndarray, value_min: np.ndarray, value_max: np.ndarray
) -> None:
    axes.fill_between(
        sigma, value_min, value_max, color="0.88", linewidth=0, label="observed values"
    )


def _draw_recommended(axes: "Axes", analyzed: xr.Dataset, layer: xr.Dataset) -> None:
    """One range for all steps, those of the phases, and the polynomials."""
    sigma = analyzed.sigma.values.astype(np.float64)
    least, greatest = float(sigma.min()), float(sigma.max())
    beyond = 0.0 if least < greatest else _STUB
    fine = np.linspace(least - beyond, greatest + beyond, 201)
    for end in ("min", "max"):
        label = "_" if end == "max" else ""
        axes.axhline(
            float(layer[f"clip_{end}"]),
            color=drawing.GREEN,
            linestyle=":",
            linewidth=1.5,
            label=f"{label}one range for all steps",
        )
        axes.hlines(
            *_of_phases(analyzed, layer, end, beyond),
            color=drawing.ORANGE,
            linewidth=1.8,
            label=f"{label}range of each phase",
        )
        axes.plot(
            fine,
            sigma_polynomial.evaluate(layer[f"polynomial_{end}"].values, fine, least, greatest),
            color=drawing.BLUE,
            linewidth=1.3,
            label=f"{label}polynomial in sigma",
        )


def _of_phases(
    analyzed: xr.Dataset, layer: xr.Dataset, end: str, beyond: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels of the phases that were collected, with the sigmas at which they begin and end.

    Phases meet halfway between the steps next to each other.
    """
    sigma, step = analyzed.sigma.values.astype(np.float64), analyzed.step.values
    first, stop = (np.searchsorted(step, layer[name].values) for name in ("first_step", "end_step"))
    there = first < stop
    first, stop = first[there], stop[there]
    begin = (sigma[np.maximum(first - 1, 0)] + sigma[first]) / 2
    finish = (sigma[stop - 1] + sigma[np.minimum(stop, len(sigma) - 1)]) / 2
    return layer[f"phase_clip_{end}"].values[there], begin + beyond, finish - beyond


def _scale_clipping(
    axes: "Axes", asked: Sequence[np.ndarray], observed: Observed, row: int
) -> None:
    """Keep the clipping ranges legible where observed values lie far beyond them."""
    reach = float(np.fmax.reduce(np.abs([observed.value_min[row], observed.value_max[row]]), None))
    magnitudes = drawing.above_zero(np.abs(asked))
    typical = float(np.median(magnitudes)) if len(magnitudes) else 0
    if typical and reach > _FAR * typical:
        drawing.scale_signed(axes, "y", typical, reach, 2.2 * POINTS_PER_INCH)

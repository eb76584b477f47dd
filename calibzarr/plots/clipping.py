"""Pictures of where to clip a few layers' values over the sampling."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from calibzarr.advice import analysis
from calibzarr.plots import drawing
from calibzarr.plots import layers as model_layers
from calibzarr.plots.distributions import UNITS, named_layers
from calibzarr.plots.drawing import POINTS_PER_INCH, picture
from calibzarr.quantization import sigma_polynomial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LAYERS = 4
_STUB = 0.2  # half the length of a line in sigma that has only one
_FAR = 4.0  # values so many times beyond the usual clipping range need a logarithmic axis


def clipped_layers(statistics: xr.Dataset, analyzed: xr.Dataset) -> list[str]:
    """The layers whose range moves most with sigma, of those that read one array only the first."""
    variation = analyzed.sigma_variation.values
    chosen = model_layers.most(
        np.where(np.isfinite(variation), variation, np.nan),
        analysis.shared_inputs(statistics),
        _LAYERS,
    )
    return [str(name) for name in analyzed.layer.values[chosen]]


@picture
def clipping_by_sigma(
    statistics: xr.Dataset,
    analyzed: xr.Dataset,
    recommended: xr.Dataset,
    layers: Sequence[str] | None = None,
) -> "Figure":
    """Draw where a few layers are to be clipped: asked at each step, and what is recommended.

    Args:
        statistics: of ``reading.open_statistics``.
        analyzed: of ``analysis.of_statistics``.
        recommended: of ``recommendation.of_statistics``.
        layers: names; those of :func:`clipped_layers` if None.

    Raises:
        OptionError: if there is no layer of a name; says which are like it.
    """
    names = (
        clipped_layers(statistics, analyzed)
        if layers is None
        else list(named_layers(statistics, analyzed, layers))
    )
    panels = drawing.panels(
        analyzed,
        "Clipping ranges over the sampling",
        len(names),
        columns=2,
        size=(4.8, 2.9),
        margin=(0, 1.2),
    )
    if not names:
        return panels.figure
    values, chosen = (
        statistics[["value_min", "value_max"]].sel(layer=names),
        recommended.sel(layer=names),
    )
    for row, axes in enumerate(panels.axes):
        layer = chosen.isel(layer=row).assign(values.isel(layer=row).variables)
        _draw_observed(axes, layer)
        _draw_recommended(axes, layer)
        _draw_asked(axes, layer)
        drawing.sigma_axis(axes, _sigma(layer), label=panels.at_bottom(row))
        axes.grid(alpha=0.3)
        axes.set_title(_title(layer))
    panels.figure.supylabel(UNITS, fontsize=8)
    panels.legend_of_first(ncols=3)
    return panels.figure


def _title(layer: xr.Dataset) -> str:
    by_phase = ", ".join(
        f"{bits} {name}"
        for name, bits in zip(layer.phase.values, layer.phase_bits.values, strict=True)
        if bits
    )
    text = f"{layer.layer.item()}\n{int(layer.activation_bits)} bits; by phase: {by_phase}"
    return text if layer.polynomial_met else f"{text}; polynomial too wide"


def _sigma(layer: xr.Dataset) -> np.ndarray:
    return np.asarray(layer.sigma.values.astype(np.float64))


def _draw_observed(axes: "Axes", layer: xr.Dataset) -> None:
    axes.fill_between(
        _sigma(layer),
        layer.value_min.values,
        layer.value_max.values,
        color="0.88",
        linewidth=0,
        label="observed values",
    )


def _draw_recommended(axes: "Axes", layer: xr.Dataset) -> None:
    """One range for all steps, those of the phases, and the polynomials."""
    sigma = _sigma(layer)
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
            *_of_phases(layer, end, beyond),
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
    layer: xr.Dataset, end: str, beyond: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels of the phases that were collected, with the sigmas at which they begin and end.

    Phases meet halfway between the steps next to each other.
    """
    sigma, step = _sigma(layer), layer.step.values
    first, stop = (np.searchsorted(step, layer[name].values) for name in ("first_step", "end_step"))
    there = first < stop
    first, stop = first[there], stop[there]
    begin = (sigma[np.maximum(first - 1, 0)] + sigma[first]) / 2
    finish = (sigma[stop - 1] + sigma[np.minimum(stop, len(sigma) - 1)]) / 2
    return layer[f"phase_clip_{end}"].values[there], begin + beyond, finish - beyond


def _draw_asked(axes: "Axes", layer: xr.Dataset) -> None:
    """Ranges of each step, legible also where observed values lie far beyond them."""
    ends = layer.step_clip_min.values, layer.step_clip_max.values
    for values, label in zip(ends, ("asked at each step", "_upper"), strict=True):
        axes.plot(
            _sigma(layer), values, ls="", marker=".", markersize=5, color="black", label=label
        )
    observed = np.abs([layer.value_min.values, layer.value_max.values])
    reach = float(np.fmax.reduce(observed, None))
    magnitudes = drawing.above_zero(np.abs(ends))
    typical = float(np.median(magnitudes)) if len(magnitudes) else 0
    if typical and reach > _FAR * typical:
        drawing.scale_signed(axes, "y", typical, reach, 2.2 * POINTS_PER_INCH)

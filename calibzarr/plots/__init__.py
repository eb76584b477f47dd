"""Pictures of an analysis and what it recommends, with Matplotlib (the extra ``plot``)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr
from rich.console import Console

from calibzarr.plots import drawing
from calibzarr.plots.advice import convergence, sqnr_by_bits
from calibzarr.plots.bits import bits_by_phase, predicted_by_bits, recommended_bits
from calibzarr.plots.distributions import histograms
from calibzarr.plots.extremes import extremes_by_prompt
from calibzarr.plots.heatmaps import range_by_sigma, sqnr_by_step
from calibzarr.plots.ranges import feature_ranges, range_by_kind
from calibzarr.progress import reporting
from calibzarr.quantization.histograms import Histograms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "bits_by_phase",
    "convergence",
    "extremes_by_prompt",
    "feature_ranges",
    "histograms",
    "predicted_by_bits",
    "range_by_kind",
    "range_by_sigma",
    "recommended_bits",
    "sqnr_by_bits",
    "sqnr_by_step",
    "write",
]


def write(
    directory: Path,
    statistics: xr.Dataset,
    analyzed: xr.Dataset,
    recommended: xr.Dataset,
    activations: Histograms | None = None,
    predicted: xr.Dataset | None = None,
    ridge_layers: Sequence[str] | None = None,
    console: Console | None = None,
) -> list[Path]:
    """Write every picture as PNG and as SVG; the same input gives the same bytes.

    Args:
        directory: made if there is none; files of the pictures' names are replaced.
        statistics: of ``reading.open_statistics``.
        analyzed: of ``analysis.of_statistics``.
        recommended: of ``recommendation.of_statistics``.
        activations: the statistics' layers and steps, where they are in memory already.
        predicted: of ``by_bits.of_model``; without it, what it predicts is not drawn.
        ridge_layers: names of the layers whose histograms are drawn; telling ones if None.
        console: where to tell how many are drawn.

    Returns:
        The files, in the order in which they were written.

    Raises:
        ModuleNotFoundError: if Matplotlib is not installed; says how to.
        OptionError: if there is no layer of a name in ``ridge_layers``.
        OSError: if a file cannot be written.
    """
    pictures: dict[str, Callable[[], Figure]] = {
        # First what can be wrong with the arguments.
        "histograms": lambda: histograms(
            statistics, analyzed, ridge_layers, activations, recommended
        ),
        "range_by_sigma": lambda: range_by_sigma(analyzed),
        "range_by_kind": lambda: range_by_kind(analyzed),
        "sqnr_by_step": lambda: sqnr_by_step(analyzed),
        "sqnr_by_bits": lambda: sqnr_by_bits(analyzed, recommended),
        "recommended_bits": lambda: recommended_bits(recommended),
        "feature_ranges": lambda: feature_ranges(statistics, analyzed),
        "convergence": lambda: convergence(statistics),
        "extremes_by_prompt": lambda: extremes_by_prompt(statistics),
    }
    if predicted is not None:
        pictures["predicted_by_bits"] = lambda: predicted_by_bits(recommended, predicted)
        if "phase_bits" in predicted:
            pictures["bits_by_phase"] = lambda: bits_by_phase(recommended, predicted)
    paths: list[Path] = []
    with reporting(console or Console(quiet=True), "draw", "picture", len(pictures)) as report:
        for name, draw in pictures.items():
            paths += drawing.save(draw(), directory, name)
            report.advance(1)
    return paths

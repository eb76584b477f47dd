"""Statistics of a store as histograms, and where the phases of the sampling stand in them."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from calibzarr.quantization.histograms import Histograms
from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.steps import phases
from calibzarr.storage.schema import ACTIVATIONS


def bins_of(statistics: xr.Dataset) -> LogBins:
    """The grid that the histograms were counted on."""
    return LogBins(**statistics.attrs[ACTIVATIONS]["bins"])


def activations(statistics: xr.Dataset) -> Histograms:
    """Every layer at every collected step: shape (layer, step)."""
    mean, std = (np.nan_to_num(statistics[f"value_{name}"].values) for name in ("mean", "std"))
    count = statistics.value_count.values
    return Histograms(
        bins_of(statistics),
        statistics.histogram.values,
        statistics.value_min.values,
        statistics.value_max.values,
        count * mean,
        count * (mean**2 + std**2),
    )


def weights(statistics: xr.Dataset) -> Histograms:
    """The weights of every layer, by their greatest magnitude: shape (layer,)."""
    reach = np.fmax.reduce(statistics.weight_feature_max.values, axis=-1)
    counts = statistics.weight_histogram.values
    return Histograms.of_counts(counts, bins_of(statistics), -reach, reach)


def phases_of(statistics: xr.Dataset) -> Mapping[str, range]:
    """The thirds of the store's sampling."""
    return phases(int(statistics.attrs["num_steps"]))


def positions(statistics: xr.Dataset, phases: Mapping[str, range]) -> dict[str, slice]:
    """Where each phase stands among the collected steps; it may be empty."""
    collected = statistics.step.values
    return {
        name: slice(*np.searchsorted(collected, [steps.start, steps.stop]).tolist())
        for name, steps in phases.items()
    }

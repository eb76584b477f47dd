"""Statistics of a store as histograms."""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import xarray as xr

from calibzarr.quantization.histograms import Histograms
from calibzarr.statistics.histogram import LogBins
from calibzarr.storage.schema import ACTIVATIONS


def bins_of(statistics: xr.Dataset) -> LogBins:
    """The grid that the histograms were counted on."""
    return LogBins(**statistics.attrs[ACTIVATIONS]["bins"])


@dataclass(frozen=True)
class Activations(Histograms):
    """Every layer at every collected step, shape (layer, step), and more of some over all steps.

    Attributes:
        cached: what the caching pass alone showed at other calls, shape (row, cached step).
        cached_observed: of which layers, shape (layer, cached step), bool.
    """

    cached: Histograms
    cached_observed: np.ndarray

    @cached_property
    def overall(self) -> Histograms:
        """Over all steps where a layer was observed, shape (layer,)."""
        whole = [slice(None)]
        return self.over(whole).with_more(self.cached.over(whole), _rows(self.cached_observed)).flat


def activations(statistics: xr.Dataset) -> Activations:
    """What was observed of every layer.

    Args:
        statistics: of ``reading.open_statistics``.
    """
    if "cached_observed" in statistics:
        observed = statistics.cached_observed.values
    else:  # chosen variables alone
        observed = np.zeros((statistics.sizes["layer"], 0), dtype=bool)
    rows = _rows(observed)
    if len(rows):
        cached = _histograms(statistics.isel(layer=rows), "cached_")
    else:
        cached = Histograms(
            bins_of(statistics),
            np.zeros((0, observed.shape[1], statistics.sizes["bin"]), dtype=np.int64),
            *np.zeros((4, 0, observed.shape[1])),
        )
    collected = _histograms(statistics)
    return Activations(
        **{field.name: getattr(collected, field.name) for field in fields(collected)},
        cached=cached,
        cached_observed=observed,
    )


def _rows(observed: np.ndarray) -> np.ndarray:
    """Layers that the caching pass showed at some step."""
    return np.flatnonzero(observed.any(axis=1))


def _histograms(statistics: xr.Dataset, prefix: str = "") -> Histograms:
    """Of variables whose names begin so, shape (layer, step)."""

    def values(name: str) -> np.ndarray:
        return statistics[f"{prefix}{name}"].values

    mean, std = (np.nan_to_num(values(f"value_{name}")) for name in ("mean", "std"))
    count = values("value_count")
    return Histograms(
        bins_of(statistics),
        values("histogram"),
        values("value_min"),
        values("value_max"),
        count * mean,
        count * (mean**2 + std**2),
    )


def weights(statistics: xr.Dataset) -> Histograms:
    """The weights of every layer, by their greatest magnitude: shape (layer,)."""
    reach = np.fmax.reduce(statistics.weight_feature_max.values, axis=-1)
    counts = statistics.weight_histogram.values
    return Histograms.of_counts(counts, bins_of(statistics), -reach, reach)

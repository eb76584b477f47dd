"""The baseline of analyzing: NumPy on one histogram after the other, layer by layer.

Every step and part of the sampling has to have values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from calibzarr.advice import observed
from calibzarr.quantization.histograms import TAILS
from calibzarr.quantization.levels import BITS, levels
from calibzarr.statistics.histogram import LogBins
from calibzarr.storage import reading

_THRESHOLDS = 2.0 ** (-np.arange(97) / 12)
_OF_LAYERS = (
    *("histogram", "value_min", "value_max", "value_count", "value_mean", "value_std"),
    *("weight_histogram", "weight_feature_max"),
)
_OF_IMAGES = ("image_min", "image_max", "image_mean")
_OF_FEATURES = ("feature_min", "feature_max")


def read(path: Path) -> xr.Dataset:
    """Read what a loop needs into memory, whole: a chunk of the store holds all layers.

    Args:
        path: of the store.
    """
    names = _OF_LAYERS + _OF_IMAGES + _OF_FEATURES
    return reading.open_statistics(path)[list(names)].load()


@dataclass(frozen=True)
class _Row:
    """One histogram: the bins from its least value to its greatest.

    Attributes:
        edges: of the bins, shape (bin + 1,), activation units.
        counts: shape (bin,).
        least: observed value.
        greatest: observed value.
        symmetric: whether the levels are to be.
    """

    edges: np.ndarray
    counts: np.ndarray
    least: float
    greatest: float
    symmetric: bool = False

    @classmethod
    def of(
        cls,
        counts: np.ndarray,
        bins: LogBins,
        least: float,
        greatest: float,
        *,
        symmetric: bool = False,
    ) -> "_Row":
        first, *_, last = np.flatnonzero(counts)
        inner = bins.low[first + 1 : last + 1]
        edges = np.concatenate([[least], inner, [greatest]]).astype(float)
        return cls(edges, counts[first : last + 1], float(least), float(greatest), symmetric)

    @property
    def number(self) -> int:
        """Of values."""
        return int(self.counts.sum())

    @property
    def density(self) -> np.ndarray:
        """Values per unit, shape (bin,)."""
        return self.counts / np.diff(self.edges)

    def power(self) -> float:
        """Mean square."""
        return float(self.density @ np.diff(self.edges**3)) / 3 / self.number

    def noise(self, clip_min: float, clip_max: float, bits: int) -> float:
        """Expected squared error of a range over the mean square."""
        return float(
            self.errors(np.array([clip_min]), np.array([clip_max]), bits)[0] / self.power()
        )

    def errors(self, clip_min: np.ndarray, clip_max: np.ndarray, bits: int) -> np.ndarray:
        """Expected squared errors of ranges, shape (range,)."""
        own = levels(clip_min, clip_max, np.asarray(bits), symmetric=self.symmetric)
        step, lowest, highest = (
            np.broadcast_to(each, clip_min.shape)[:, None]
            for each in (own.step_size, own.lowest, own.highest)
        )
        scaled = self.edges / step
        level = np.clip(np.rint(scaled), lowest, highest)
        rest = scaled - level
        integral = (level / 4 + rest * rest * rest) * step**3  # three times that of (v - Q(v))**2
        return np.diff(integral, axis=1) @ self.density / 3 / self.number

    def search(self, bits: int) -> tuple[float, float, float]:
        """The best of 97 ranges, its ends refined as by a parabola, and its error before that."""
        reach = max(-self.least, self.greatest)
        threshold = 2.0 ** np.frexp(reach)[1] * _THRESHOLDS
        errors = self.errors(*self._ends(threshold), bits)
        best = int(errors.argmin())
        finer = threshold[best]
        if 0 < best < len(errors) - 1:
            before, at, after = errors[best - 1 : best + 2]
            bend = before - 2 * at + after
            vertex = (before - after) / (2 * bend) if bend > 0 else 0.0
            finer *= 2 ** (-np.clip(vertex, -0.5, 0.5) / 12)
        low, high = self._ends(finer)
        return float(low), float(high), float(errors[best])

    def _ends(self, threshold: Any) -> tuple[Any, Any]:
        return np.maximum(-threshold, self.least), np.minimum(threshold, self.greatest)

    def quantiles(self, fractions: Sequence[float]) -> list[float]:
        """Between the middles of bins, as NumPy interpolates between values."""
        middle, cumulative = (self.edges[:-1] + self.edges[1:]) / 2, self.counts.cumsum()
        result = []
        for fraction in fractions:
            position = fraction * (self.number - 1)
            ranks = np.floor(position) + np.array([0, 1])
            below, above = middle[np.searchsorted(cumulative, ranks, side="right")]
            value = below + (position - ranks[0]) * (above - below)
            result.append(min(max(value, self.least), self.greatest))
        return result


def analyze(statistics: xr.Dataset) -> dict[str, np.ndarray]:
    """Describe layers one by one, by the names of ``analysis.of_statistics``."""
    bins = observed.bins_of(statistics)
    names = (*_OF_LAYERS, *_OF_IMAGES, *_OF_FEATURES)
    arrays = {name: statistics[name].values for name in names}
    return _stacked(
        [
            _described({name: array[layer] for name, array in arrays.items()}, bins)
            for layer in range(statistics.sizes["layer"])
        ]
    )


def _described(own: Mapping[str, np.ndarray], bins: LogBins) -> dict[str, Any]:
    whole, steps = _rows(own, bins, [slice(None)])[0], _steps(own, bins)
    p01, p99 = whole.quantiles(TAILS)
    by_step = own["value_max"] - own["value_min"]
    value_range = whole.greatest - whole.least
    return {
        "step_range": by_step,
        "step_sqnr_db": np.array([_best_sqnr(row) for row in steps]),
        "value_range": value_range,
        "central_range": p99 - p01,
        "outlier_ratio": value_range / (p99 - p01),
        "sigma_variation": by_step.max() / by_step.min(),
        "asymmetry": (p99 + p01) / (abs(p99) + abs(p01)),
        "sqnr_db": _best_sqnr(whole),
        "weight_sqnr_db": _best_sqnr(_weights(own, bins)),
        **_of_features(own),
        **_of_images(own),
    }


def _rows(own: Mapping[str, np.ndarray], bins: LogBins, parts: Sequence[slice]) -> list[_Row]:
    return [
        _Row.of(
            own["histogram"][part].sum(axis=0),
            bins,
            own["value_min"][part].min(),
            own["value_max"][part].max(),
        )
        for part in parts
    ]


def _steps(own: Mapping[str, np.ndarray], bins: LogBins) -> list[_Row]:
    each = zip(own["histogram"], own["value_min"], own["value_max"], strict=True)
    return [_Row.of(counts, bins, least, greatest) for counts, least, greatest in each]


def _weights(own: Mapping[str, np.ndarray], bins: LogBins) -> _Row | None:
    """None for the output of a block."""
    if not own["weight_histogram"].any():
        return None
    reach = np.nanmax(own["weight_feature_max"])
    return _Row.of(own["weight_histogram"], bins, -reach, reach, symmetric=True)


def _best_sqnr(row: _Row | None) -> list[float]:
    if row is None:
        return [np.nan] * len(BITS)
    return [10 * np.log10(row.power() / row.search(bits)[2]) for bits in BITS]


def _of_features(own: Mapping[str, np.ndarray]) -> dict[str, float]:
    low = own["feature_min"].min(axis=0).astype(float)
    high = own["feature_max"].max(axis=0).astype(float)
    ranges = high - low
    return {"feature_spread": ranges.max() / np.median(ranges), "widest_feature": ranges.argmax()}


def _of_images(own: Mapping[str, np.ndarray]) -> dict[str, float]:
    growth, mean_error = [], []
    each = zip(*(own[name] for name in _OF_IMAGES), own["value_std"], strict=True)
    for low, high, mean, std in each:
        weights = _weights_of_half(len(low))
        half = np.sort(high) @ weights - np.sort(-low) @ -weights
        growth.append(max((high.max() - low.min() - half) / half, 0))
        mean_error.append(mean.std(ddof=1, dtype=float) / np.sqrt(len(mean)) / std)
    return {"range_growth": max(growth), "mean_error": max(mean_error)}


@cache
def _weights_of_half(count: int) -> np.ndarray:
    """How likely the images, by rising value, are the greatest of half of them."""
    sizes = (count // 2, (count + 1) // 2)
    return np.mean(
        [[comb(k, size - 1) / comb(count, size) for k in range(count)] for size in sizes], axis=0
    )


def _stacked(described: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    return {name: np.stack([own[name] for own in described]) for name in described[0]}

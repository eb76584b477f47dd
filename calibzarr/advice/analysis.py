"""What statistics say of every layer at every step: ranges, tails, expected quantization error."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from calibzarr.quantization import features as feature_advice
from calibzarr.quantization.clipping import best_clipping
from calibzarr.quantization.expected_error import BITS, expected_error, mean_power, sqnr_db
from calibzarr.statistics import convergence
from calibzarr.statistics.histogram import LogBins, quantile
from calibzarr.statistics.steps import phases
from calibzarr.storage.reading import open_statistics

TAILS = (0.01, 0.99)


def bins_of(statistics: xr.Dataset) -> LogBins:
    """The grid that the histograms were counted on."""
    return LogBins(**statistics.attrs["activations"]["bins"])


@dataclass(frozen=True)
class Observed:
    """What was observed in some rows: of layers, or of layers at steps or in parts of them.

    Attributes:
        bins: of the histograms.
        counts: shape (..., bin), int64.
        value_min: least value, shape (...), activation units; NaN where nothing was observed.
        value_max: greatest value, likewise.
        total_power: sum of squares, shape (...), activation units squared.
    """

    bins: LogBins
    counts: np.ndarray
    value_min: np.ndarray
    value_max: np.ndarray
    total_power: np.ndarray

    @classmethod
    def of(cls, statistics: xr.Dataset) -> "Observed":
        """Every layer at every collected step: shape (layer, step)."""
        mean, std = statistics.value_mean.values, statistics.value_std.values
        return cls(
            bins_of(statistics),
            statistics.histogram.values,
            statistics.value_min.values,
            statistics.value_max.values,
            np.nan_to_num(mean**2 + std**2) * statistics.value_count.values,
        )

    @classmethod
    def of_weights(cls, statistics: xr.Dataset) -> "Observed":
        """The weights of every layer, by their magnitude: shape (layer,)."""
        reach = np.fmax.reduce(statistics.weight_feature_max.values, axis=-1)
        bins, counts = bins_of(statistics), statistics.weight_histogram.values
        power = np.nan_to_num(mean_power(counts, bins)) * counts.sum(axis=-1)
        return cls(bins, counts, -reach, reach, power)

    def at(self, layers: np.ndarray) -> "Observed":
        """Some of the layers."""
        arrays = (self.counts, self.value_min, self.value_max, self.total_power)
        return Observed(self.bins, *(array[layers] for array in arrays))

    def over(self, parts: Mapping[str, slice]) -> "Observed":
        """The same over parts of the second axis: shape (layer, part)."""
        return Observed(
            self.bins,
            np.stack([self.counts[:, own].sum(axis=1) for own in parts.values()], axis=1),
            np.stack([_reduced(np.fmin, self.value_min, own) for own in parts.values()], axis=1),
            np.stack([_reduced(np.fmax, self.value_max, own) for own in parts.values()], axis=1),
            np.stack([self.total_power[:, own].sum(axis=1) for own in parts.values()], axis=1),
        )

    def quantile(self, q: np.ndarray) -> np.ndarray:
        """Quantiles: shape (..., quantile), activation units."""
        values = quantile(self.counts, self.bins.low, self.bins.high, q)
        return np.clip(values, self.value_min[..., None], self.value_max[..., None])

    def power(self) -> np.ndarray:
        """Mean square, shape (...); NaN where nothing was observed."""
        number = self.counts.sum(axis=-1)
        return np.where(number > 0, self.total_power / np.maximum(number, 1), np.nan)

    def error(
        self, clip_min: np.ndarray, clip_max: np.ndarray, bits: np.ndarray, symmetric: bool = False
    ) -> np.ndarray:
        """Expected squared error with ranges of shape (..., choice)."""
        return expected_error(
            self.counts,
            self.bins,
            clip_min,
            clip_max,
            bits,
            symmetric,
            value_min=self.value_min,
            value_max=self.value_max,
        )


def _reduced(extreme: np.ufunc, values: np.ndarray, own: slice) -> np.ndarray:
    """NaN where there is nothing to reduce."""
    padded = np.concatenate([values[:, own], np.full((len(values), 1), np.nan)], axis=1)
    return np.asarray(extreme.reduce(padded, axis=1))


def parts_of(statistics: xr.Dataset, partition: Mapping[str, range]) -> dict[str, slice]:
    """Where each part of the sampling stands among the collected steps; it may be empty."""
    steps = statistics.step.values
    return {
        name: slice(*(int(place) for place in np.searchsorted(steps, [own.start, own.stop])))
        for name, own in partition.items()
    }


def analyze(path: str | Path) -> xr.Dataset:
    """Analyze a store's statistics; see :func:`of_statistics`."""
    return of_statistics(open_statistics(path))


def of_statistics(statistics: xr.Dataset, observed: Observed | None = None) -> xr.Dataset:
    """Describe every layer in figures.

    Args:
        statistics: of ``reading.open_statistics``.
        observed: its layers and steps, where they are in memory already.

    Returns:
        A dataset with the layers' coordinates, ``sigma`` and ``bits``. By (layer, step):
        ``step_range`` (greatest less least value), ``step_sqnr_db`` (by bits as well, with the
        best clipping range). By layer, over all collected steps: ``value_range``;
        ``central_range``, p99 - p01; ``outlier_ratio``, the former over the latter;
        ``sigma_variation``, the widest step's range over the narrowest's; ``asymmetry``, -1 to 1,
        p01 + p99 over the sum of their magnitudes; ``sqnr_db`` and ``weight_sqnr_db`` by bits;
        ``feature_spread``, the widest feature's range over the median one's; ``shift_gain``,
        the range over that after each feature is shifted to its middle; ``post_gelu``;
        ``range_growth``, by which half of the images fall short of all, at the worst step;
        ``typical_spread``, the width of the bootstrap interval (90 %) of the 0.9-quantile over
        images of each image's range, over that quantile, at the worst step; ``mean_error``, the
        standard error over images of the mean, over the standard deviation, likewise.
        NaN where nothing is known.
    """
    observed = observed or Observed.of(statistics)  # first: all that follows waits for it
    with ThreadPoolExecutor(1) as meanwhile:  # nearly half of the work is reading the features
        others = [meanwhile.submit(each, statistics) for each in (_by_feature, _over_images)]
        described = _by_layer(statistics, observed)
    variables = {
        **described,
        "post_gelu": ("layer", is_post_gelu(statistics)),
        **{name: ("layer", own) for other in others for name, own in other.result().items()},
    }
    coordinates = {
        name: statistics[name]
        for name in ("layer", "module", "block", "stream", "kind", "role", "features", "step")
    }
    return xr.Dataset(
        variables,
        {**coordinates, "sigma": ("step", statistics.sigma.values), "bits": list(BITS)},
        statistics.attrs,
    )


def _by_layer(
    statistics: xr.Dataset, observed: Observed
) -> dict[str, tuple[str | tuple[str, ...], np.ndarray]]:
    """What histograms and extremes say, with the dimensions of each."""
    whole = observed.over({"all": slice(None)})
    low, high = np.moveaxis(whole.quantile(np.array(TAILS))[:, 0], -1, 0)
    by_step = observed.value_max - observed.value_min
    value_range = (whole.value_max - whole.value_min)[:, 0]
    step, of_bits = ("layer", "step"), ("layer", "bits")
    widest, narrowest = np.fmax.reduce(by_step, axis=1), np.fmin.reduce(by_step, axis=1)
    weights = Observed.of_weights(statistics)
    return {
        "step_range": (step, by_step),
        "step_sqnr_db": ((*step, "bits"), _best_sqnr(observed, symmetric=False)),
        "value_range": ("layer", value_range),
        "central_range": ("layer", high - low),
        "outlier_ratio": ("layer", _ratio(value_range, high - low)),
        "sigma_variation": ("layer", _ratio(widest, narrowest)),
        "asymmetry": ("layer", _ratio(high + low, np.abs(high) + np.abs(low))),
        "sqnr_db": (of_bits, _best_sqnr(whole, symmetric=False)[:, 0]),
        "weight_sqnr_db": (of_bits, _best_sqnr(weights, symmetric=True)),
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """A quotient; NaN where the denominator is zero or unknown."""
    known = denominator > 0
    return np.where(known, numerator / np.where(known, denominator, 1), np.nan)


def _best_sqnr(observed: Observed, symmetric: bool) -> np.ndarray:
    best = best_clipping(
        observed.counts, observed.bins, observed.value_min, observed.value_max, BITS, symmetric
    )
    return sqnr_db(observed.power()[..., None], best.error)


def is_post_gelu(statistics: xr.Dataset) -> np.ndarray:
    """Which layers' inputs come from a GELU, shape (layer,)."""
    return np.asarray(statistics.follows.values == "gelu")


def shared_inputs(statistics: xr.Dataset) -> np.ndarray:
    """Layers of one number read the same values, as q, k and v do; shape (layer,)."""
    return np.unique(statistics.input_group.values, return_inverse=True)[1]


def _by_feature(statistics: xr.Dataset) -> dict[str, np.ndarray]:
    shift = feature_advice.shift(  # first: each of these arrays may take hundreds of megabytes
        statistics.feature_mean_min.values, statistics.feature_mean_max.values
    )
    low, high = statistics.feature_min.values, statistics.feature_max.values
    return {
        "feature_spread": feature_advice.feature_spread(low, high),
        "shift_gain": feature_advice.asymmetry_gain(low, high, shift),
    }


def _over_images(statistics: xr.Dataset) -> dict[str, np.ndarray]:
    result = convergence.of_images(
        statistics.image_min.values,
        statistics.image_max.values,
        statistics.image_mean.values,
        statistics.value_std.values,
    )
    spread = result.typical_high - result.typical_low
    return {
        "range_growth": np.fmax.reduce(result.growth, axis=1),
        "typical_spread": np.fmax.reduce(_ratio(spread, result.typical), axis=1),
        "mean_error": np.fmax.reduce(result.mean_error, axis=1),
    }


def phases_of(statistics: xr.Dataset) -> Mapping[str, range]:
    """The thirds of the store's sampling."""
    return phases(int(statistics.attrs["num_steps"]))

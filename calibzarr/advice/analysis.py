"""What statistics say of every layer at every step: ranges, tails, expected quantization error."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import xarray as xr

from calibzarr.advice import labels, observed
from calibzarr.datasets import for_users
from calibzarr.quantization.clipping import best_clipping
from calibzarr.quantization.features import feature_ranges, feature_spread
from calibzarr.quantization.histograms import Histograms
from calibzarr.quantization.levels import BITS, sqnr_db
from calibzarr.statistics import convergence
from calibzarr.storage.reading import open_statistics


def analyze(path: str | Path) -> xr.Dataset:
    """Describe every layer of a store in figures: ranges, tails, expected quantization error.

    Args:
        path: directory of a store with statistics.

    Returns:
        By layer, by (layer, step) and by (layer, bits); each variable has its ``long_name`` and
        ``units``. NaN where nothing is known.

    Raises:
        FileNotFoundError: if nothing is at ``path``.
        StoreError: if it is no calibzarr store, or has no statistics.
    """
    return for_users(of_statistics(open_statistics(path)), labels.ANALYZED)


def of_statistics(
    statistics: xr.Dataset, activations: observed.Activations | None = None
) -> xr.Dataset:
    """Describe every layer in figures.

    Args:
        statistics: of ``reading.open_statistics``.
        activations: its layers and steps, where they are in memory already.

    Returns:
        A dataset with the layers' coordinates, ``sigma`` and ``bits``. By (layer, step):
        ``step_range`` (greatest less least value), ``step_sqnr_db`` (by bits as well, with the
        best clipping range). By layer, over all steps where it was observed: ``value_range``;
        ``central_range``, p99 - p01; ``outlier_ratio``, the former over the latter;
        ``sigma_variation``, the widest step's range over the narrowest's; ``asymmetry``, -1 to 1,
        p01 + p99 over the sum of their magnitudes; ``sqnr_db`` and ``weight_sqnr_db`` by bits;
        ``feature_spread``, the widest feature's range over the median one's, and
        ``widest_feature``, its index; ``post_gelu``;
        ``range_growth``, by which half of the images fall short of all, at the worst step;
        ``mean_error``, the standard error over images of the mean, over the standard deviation,
        likewise.
        NaN where nothing is known.
    """
    if activations is None:  # first: all that follows waits for it
        activations = observed.activations(statistics)
    with ThreadPoolExecutor(1) as meanwhile:  # nearly half of the work is reading the features
        others = [meanwhile.submit(of, statistics) for of in (_by_feature, _over_images)]
        described = _by_layer(statistics, activations)
    variables = {
        **described,
        "post_gelu": ("layer", statistics.follows.values == "gelu"),
        **{name: ("layer", values) for other in others for name, values in other.result().items()},
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
    statistics: xr.Dataset, activations: observed.Activations
) -> dict[str, tuple[str | tuple[str, ...], np.ndarray]]:
    """What histograms and extremes say, with the dimensions of each."""
    whole, weights = activations.overall, observed.weights(statistics)
    low, high = whole.tails
    by_step = activations.value_max - activations.value_min
    value_range = whole.value_max - whole.value_min
    step, of_bits = ("layer", "step"), ("layer", "bits")
    widest, narrowest = np.fmax.reduce(by_step, axis=1), np.fmin.reduce(by_step, axis=1)
    return {
        "step_range": (step, by_step),
        "step_sqnr_db": ((*step, "bits"), _best_sqnr(activations)),
        "value_range": ("layer", value_range),
        "central_range": ("layer", high - low),
        "outlier_ratio": ("layer", _ratio(value_range, high - low)),
        "sigma_variation": ("layer", _ratio(widest, narrowest)),
        "asymmetry": ("layer", _ratio(high + low, np.abs(high) + np.abs(low))),
        "sqnr_db": (of_bits, _best_sqnr(whole)),
        "weight_sqnr_db": (of_bits, _best_sqnr(weights, symmetric=True)),
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """A quotient; NaN where the denominator is zero or unknown."""
    known = denominator > 0
    return np.where(known, numerator / np.where(known, denominator, 1), np.nan)


def _best_sqnr(rows: Histograms, *, symmetric: bool = False) -> np.ndarray:
    return sqnr_db(rows.power[..., None], best_clipping(rows, symmetric=symmetric).error)


def shared_inputs(statistics: xr.Dataset) -> np.ndarray:
    """Layers of one number read the same values, as q, k and v do; shape (layer,)."""
    return np.unique(statistics.input_group.values, return_inverse=True)[1]


def _by_feature(statistics: xr.Dataset) -> dict[str, np.ndarray]:
    ranges = feature_ranges(statistics.feature_min.values, statistics.feature_max.values)
    return {
        "feature_spread": feature_spread(ranges),
        "widest_feature": np.nan_to_num(ranges, nan=-1).argmax(axis=1),
    }


def _over_images(statistics: xr.Dataset) -> dict[str, np.ndarray]:
    result = convergence.of_images(
        statistics.image_min.values,
        statistics.image_max.values,
        statistics.image_mean.values,
        statistics.value_std.values,
    )
    return {
        "range_growth": np.fmax.reduce(result.growth, axis=1),
        "mean_error": np.fmax.reduce(result.mean_error, axis=1),
    }

"""Advice for each feature of each layer, kept in the store beside the statistics it is from."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from calibzarr.advice import analysis
from calibzarr.advice.choices import ALPHA
from calibzarr.quantization import features as feature_advice
from calibzarr.storage import schema, staging

_RISKY_SCALE = 32.0  # scales up to this made SD3 collapse with weights of 4 bits


def compute(
    statistics: xr.Dataset, alpha: float = ALPHA, factor: float = feature_advice.OUTLIER_FACTOR
) -> dict[str, np.ndarray]:
    """Shifts, smoothing scales and outliers, from all collected steps.

    Args:
        statistics: of ``reading.open_statistics``.
        alpha: of SmoothQuant, 0 to 1: how much of the difficulty moves to the weights.
        factor: times the median range that a feature's range exceeds for an outlier.

    Returns:
        Values of ``schema.RECOMMENDED_VARIABLES`` by name, shape (layer, feature). Shifts are
        NaN but for inputs that come from a GELU, scales but for linear layers.

    Raises:
        OptionError: if ``alpha`` or ``factor`` is not allowed.
    """
    low, high = statistics.feature_min.values, statistics.feature_max.values
    outliers = feature_advice.outliers(low, high, factor)
    scale = feature_advice.smoothing_scales(
        low, high, statistics.weight_feature_max.values, alpha, analysis.shared_inputs(statistics)
    )
    del low, high  # a large model's are large
    shift = feature_advice.shift(
        statistics.feature_mean_min.values, statistics.feature_mean_max.values
    )
    linear = (statistics.role == "input").values[:, None]
    return {
        "recommended_shift": np.where(analysis.is_post_gelu(statistics)[:, None], shift, np.nan),
        "recommended_smoothing_scale": np.where(linear, scale, np.nan),
        "recommended_outlier": outliers.outlier,
        "recommended_multiplier": outliers.multiplier,
    }


def risky_layers(values: dict[str, np.ndarray], weight_bits: np.ndarray) -> np.ndarray:
    """Layers whose smoothing scales are large for the few bits of their weights, shape (layer,)."""
    greatest = np.fmax.reduce(values["recommended_smoothing_scale"], axis=1)
    return np.asarray((greatest >= _RISKY_SCALE) & (weight_bits <= 4))


def write(path: Path, values: dict[str, np.ndarray], attributes: dict[str, Any]) -> None:
    """Put advice into a store, in the place of any that it has.

    A kill in between leaves a store without advice, which can be computed again.

    Args:
        path: directory of the store.
        values: of :func:`compute`.
        attributes: how they were computed, JSON types only.

    Raises:
        OSError: if it cannot be written.
    """
    num_layers, features = values[schema.ADVICE.names[0]].shape
    staging.write(
        path, schema.ADVICE, {"layer": num_layers, "feature": features}, values, attributes
    )

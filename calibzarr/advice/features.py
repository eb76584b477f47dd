"""Advice for each feature of each layer, kept in the store beside the statistics it is from."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from calibzarr.advice import analysis
from calibzarr.quantization import features as feature_advice
from calibzarr.storage import arrays, durable, schema, store

ALPHA = 0.5
_RISKY_SCALE = 32.0  # scales up to this made SD3 collapse with weights of 4 bits


def compute(
    statistics: xr.Dataset, alpha: float = ALPHA, factor: float = feature_advice.OUTLIER_FACTOR
) -> dict[str, np.ndarray]:
    """Shifts, smoothing scales and outliers, from all collected steps.

    Args:
        statistics: of ``analysis.open_statistics``.
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
    return (greatest >= _RISKY_SCALE) & (weight_bits <= 4)


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
    names = [variable.name for variable in schema.RECOMMENDED_VARIABLES]
    num_layers, features = values[names[0]].shape
    staged = path / f"{schema.RECOMMENDED}.staged"
    with durable.locked(path):  # one at a time
        shutil.rmtree(staged, ignore_errors=True)  # a killed process left it
        with durable.new_directory(staged) as directory:
            group = zarr.create_group(durable.DurableStore(directory), zarr_format=3)
            sizes = {"layer": num_layers, "feature": features}
            arrays.create(group, schema.RECOMMENDED_VARIABLES, sizes)
            for name in names:
                store.array(group, name)[:] = values[name]
        others = [name for name in store.published(path) if name not in names]
        store.publish(path, {schema.RECOMMENDED: None}, others)
        for name in names:
            shutil.rmtree(path / name, ignore_errors=True)
            (staged / name).rename(path / name)
        durable.flush_directory(path)
        store.publish(path, {schema.RECOMMENDED: attributes}, [*others, *names])
        shutil.rmtree(staged)

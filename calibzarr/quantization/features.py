"""Features that stand out of their layer, for all layers at once: NumPy in, NumPy out."""

import numpy as np

OUTLIER_FACTOR = 2.5  # times the median range, from where a feature stands out (arXiv 2411.14172)


def feature_ranges(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Each feature's greatest value less its least, over all steps.

    Args:
        low: least values, shape (layer, step, feature), activation units; NaN beyond a layer's
            width and at steps that were not collected.
        high: greatest values, likewise.

    Returns:
        Shape (layer, feature), float64; NaN for a feature that never changes.

    Raises:
        ValueError: if the shapes differ.
    """
    low, high = np.asarray(low), np.asarray(high)
    if low.ndim != 3 or low.shape != high.shape:
        raise ValueError(
            "extremes must both have the shape (layer, step, feature), "
            f"got {low.shape} and {high.shape}"
        )
    least, greatest = np.fmin.reduce(low, axis=1), np.fmax.reduce(high, axis=1)
    ranges = greatest.astype(np.float64) - least
    return np.where(ranges > 0, ranges, np.nan)


def feature_spread(ranges: np.ndarray) -> np.ndarray:
    """How much the features of each layer differ: the greatest range over the median one.

    Args:
        ranges: of :func:`feature_ranges`, shape (layer, feature).

    Returns:
        Shape (layer,), at least 1; NaN where no feature changes.
    """
    return np.asarray(np.fmax.reduce(ranges, axis=1) / _median(ranges))


def outliers(ranges: np.ndarray) -> np.ndarray:
    """Features whose range is over ``OUTLIER_FACTOR`` times their layer's median range.

    Args:
        ranges: of :func:`feature_ranges`, shape (layer, feature).

    Returns:
        Of the same shape, bool.
    """
    return np.asarray(ranges > OUTLIER_FACTOR * _median(ranges)[:, None])  # false for NaN


def _median(values: np.ndarray) -> np.ndarray:
    """Median over features of what is not NaN, shape (layer,); NaN where there is nothing."""
    ordered = np.sort(values, axis=1)  # NaN come last
    count = values.shape[1] - np.isnan(values).sum(axis=1, keepdims=True)
    middle = np.concatenate([(count - 1).clip(min=0) // 2, count // 2], axis=1)
    return np.asarray(np.take_along_axis(ordered, middle, axis=1).mean(axis=1))

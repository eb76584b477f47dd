"""Advice by input feature: shifts, outliers and smoothing scales, for all layers at once.

NumPy in, NumPy out. Extremes have shape (layer, step, feature), in activation units; they are
NaN beyond a layer's width and at steps that were not collected. A feature's range is over all
steps: its greatest value less its least.
"""

from dataclasses import dataclass

import numpy as np

from calibzarr.errors import Option, OptionError

OUTLIER_FACTOR = 2.5  # times the median range, from where a feature stands out


@dataclass(frozen=True)
class FeatureOutliers:
    """Features of a far wider range than their layer's others.

    Attributes:
        outlier: shape (layer, feature), bool; false beyond a layer's width.
        multiplier: how many times the scale of the normal features fits an outlier's, shape
            (layer, feature), int32; 1 for all others.
    """

    outlier: np.ndarray
    multiplier: np.ndarray


def shift(mean_low: np.ndarray, mean_high: np.ndarray) -> np.ndarray:
    """What to subtract from each feature so that it lies evenly around zero.

    That of TaQ-DiT (arXiv 2411.14172) for the inputs that a GELU gives: the middle of a
    feature's extremes. The paper's code follows it with a moving average, ``s <- 0.95 s +
    0.05 m`` for the middle ``m`` of one batch after another, so that what comes last counts
    most, and the same data in another order give another shift. Here every image and every
    step counts the same: the mean over images of ``(min + max) / 2`` is the middle of the mean
    extremes, of which the mean over steps is taken.

    Args:
        mean_low: mean over images of each image's least value, shape (layer, step, feature).
        mean_high: mean over images of each image's greatest value, of the same shape.

    Returns:
        Shape (layer, feature), activation units, float32; NaN where nothing was collected.

    Raises:
        ValueError: if the shapes differ.
    """
    mean_low, mean_high = _checked(mean_low, mean_high)
    return np.asarray(
        ((_mean_over_steps(mean_low) + _mean_over_steps(mean_high)) / 2).astype(np.float32)
    )


def outliers(low: np.ndarray, high: np.ndarray, factor: float = OUTLIER_FACTOR) -> FeatureOutliers:
    """Find the features whose range is over ``factor`` times their layer's median range.

    As TaQ-DiT does (arXiv 2411.14172), with its multiplier ``max(1, round(scale_outlier /
    scale_normal))``. At the same bits scales are as ranges, so ``scale_outlier`` is the range of
    the outlier, and ``scale_normal`` the greatest range of the layer's other features: one scale
    has to hold them all. A feature that never changes has no range to compare with, and is left
    out of the median.

    Args:
        low: least values, shape (layer, step, feature).
        high: greatest values, of the same shape.
        factor: at least 1.

    Raises:
        OptionError: if ``factor`` is not a finite number of at least 1.
        ValueError: if the shapes differ.
    """
    if not 1 <= factor < np.inf:
        raise OptionError(
            Option("factor"), f" must be a finite number of at least 1, got {factor!r}"
        )
    ranges = _varying_ranges(*_over_steps(*_checked(low, high)))
    found = ranges / _median(ranges)[:, None] > factor  # false for NaN
    normal = np.fmax.reduce(np.where(found, np.nan, ranges), axis=1)
    ratio = np.where(found, ranges / normal[:, None], 1)
    multiplier = np.rint(ratio).clip(1, np.iinfo(np.int32).max).astype(np.int32)
    return FeatureOutliers(outlier=found, multiplier=multiplier)


def smoothing_scales(
    low: np.ndarray,
    high: np.ndarray,
    weight_max: np.ndarray,
    alpha: float,
    shared: np.ndarray,
) -> np.ndarray:
    """SmoothQuant's scales: divide each feature by its own, multiply its weights with it.

    ``s = a**alpha / w**(1 - alpha)`` (arXiv 2211.10438, equation 4), with a feature's greatest
    magnitude ``a`` over all steps and that of its weights, ``w``. Layers that read one array need
    one scale; for them both are the greatest of all. The scale is 1 for a feature without
    activations or weights other than zero. At 4-bit weights, large scales move the trouble
    into the weights.

    Args:
        low: least values, shape (layer, step, feature).
        high: greatest values, of the same shape.
        weight_max: greatest magnitude of the weights, shape (layer, feature), NaN where a layer
            has none.
        alpha: in [0, 1]: from all difficulty left to the activations to all moved to the weights.
        shared: shape (layer,), int: the same for layers that share their input, as q, k and v.

    Returns:
        Shape (layer, feature), float32; NaN beyond the layer's width.

    Raises:
        OptionError: if ``alpha`` is outside [0, 1].
        ValueError: if the shapes disagree.
    """
    if not 0 <= alpha <= 1:
        raise OptionError(Option("alpha"), f" must be in [0, 1], got {alpha!r}")
    low, high = _checked(low, high)
    weight_max, shared = np.asarray(weight_max), np.asarray(shared)
    if weight_max.shape != (low.shape[0], low.shape[2]) or shared.shape != low.shape[:1]:
        raise ValueError(
            f"extremes of shape {low.shape} do not go with greatest weights of shape "
            f"{weight_max.shape} and shared inputs of shape {shared.shape}"
        )
    least, greatest = _over_steps(low, high)
    activation = _greatest_of_group(np.fmax(greatest, -least), shared)
    weight = _greatest_of_group(weight_max.astype(np.float64), shared)
    usable = (activation > 0) & (weight > 0)
    numerator = np.power(activation, alpha, where=usable, out=np.ones_like(activation))
    denominator = np.power(weight, 1 - alpha, where=usable, out=np.ones_like(weight))
    limits = np.finfo(np.float32)
    scales = (numerator / denominator).clip(limits.tiny, limits.max)
    scales[np.isnan(activation) & np.isnan(weight)] = np.nan
    return np.asarray(scales.astype(np.float32))


def feature_spread(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How much the features of each layer differ: the greatest range over the median one.

    One scale for all features wastes most where this is large: those layers gain most from
    SmoothQuant. Features that never change are left out of the median.

    Args:
        low: least values, shape (layer, step, feature).
        high: greatest values, of the same shape.

    Returns:
        Shape (layer,), at least 1; NaN where no feature changes.

    Raises:
        ValueError: if the shapes differ.
    """
    ranges = _varying_ranges(*_over_steps(*_checked(low, high)))
    return np.asarray(np.fmax.reduce(ranges, axis=1) / _median(ranges))


def asymmetry_gain(low: np.ndarray, high: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """How many times narrower a layer's range would be after a shift of its features.

    The range is over all features and steps, as one scale for the layer has to hold it.

    Args:
        low: least values, shape (layer, step, feature).
        high: greatest values, of the same shape.
        shift: to be subtracted, shape (layer, feature), activation units.

    Returns:
        Range before over range after, shape (layer,): above 1 where the shift helps, infinite
        where it leaves no range; NaN where there was none either, or nothing was collected.

    Raises:
        ValueError: if the shapes disagree.
    """
    low, high = _checked(low, high)
    shift = np.asarray(shift)
    if shift.shape != (low.shape[0], low.shape[2]):
        raise ValueError(f"a shift of shape {shift.shape} for extremes of shape {low.shape}")
    least, greatest = _over_steps(low, high)
    before = np.fmax.reduce(greatest, axis=1) - np.fmin.reduce(least, axis=1)
    after = np.fmax.reduce(greatest - shift, axis=1) - np.fmin.reduce(least - shift, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(before / after)


def _checked(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.asarray(low), np.asarray(high)
    if low.ndim != 3 or low.shape != high.shape:
        raise ValueError(
            "extremes must both have the shape (layer, step, feature), "
            f"got {low.shape} and {high.shape}"
        )
    return low, high


def _over_steps(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Extremes over steps, shapes (layer, feature), float64; needs no copy of the arrays."""
    least, greatest = np.fmin.reduce(low, axis=1), np.fmax.reduce(high, axis=1)
    return least.astype(np.float64), greatest.astype(np.float64)


def _mean_over_steps(values: np.ndarray) -> np.ndarray:
    """Mean of what is finite, shape (layer, feature), float64."""
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):  # 0 / 0 where there is nothing
        return np.asarray(
            np.sum(values, axis=1, where=finite, dtype=np.float64) / finite.sum(axis=1)
        )


def _varying_ranges(least: np.ndarray, greatest: np.ndarray) -> np.ndarray:
    """Ranges, shape (layer, feature); NaN for a feature that never changes."""
    ranges = greatest - least
    return np.where(ranges > 0, ranges, np.nan)


def _median(values: np.ndarray) -> np.ndarray:
    """Median over features of what is not NaN, shape (layer,); NaN where there is nothing."""
    ordered = np.sort(values, axis=1)  # NaN come last
    count = values.shape[1] - np.isnan(values).sum(axis=1, keepdims=True)
    middle = np.concatenate([(count - 1).clip(min=0) // 2, count // 2], axis=1)
    return np.asarray(np.take_along_axis(ordered, middle, axis=1).mean(axis=1))


def _greatest_of_group(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Greatest values of all layers of a layer's group, shape (layer, feature)."""
    groups, member = np.unique(group, return_inverse=True)
    greatest = np.full((len(groups), values.shape[1]), np.nan)
    np.fmax.at(greatest, member, values)
    return greatest[member]

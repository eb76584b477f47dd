"""Whether the images were enough: what fewer images would have shown.

NumPy in, NumPy out; nothing is sampled, so the same statistics always give the same answer.
Images are the last axis; those that are NaN were not collected and do not count.

With fewer images, the greatest has a closed form in the sorted values ``x_1 <= ... <= x_n``: that
of a random subset of ``m`` is ``x_k`` in ``C(k-1, m-1)`` of all ``C(n, m)`` subsets.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from calibzarr.errors import OptionError

TOLERANCE = 0.05  # growth of the range from half of the images to all, where they are enough


@dataclass(frozen=True)
class Convergence:
    """How settled the statistics are; shapes (layer, step), activation units, NaN if unknown.

    Nothing is known of one image but its range.

    Attributes:
        images: number of images, int.
        range: greatest value of all images less the least.
        growth: how much wider the range of all images is than one of half of them is expected
            to be, as a fraction of the latter.
        mean_error: standard error of the mean over images, in standard deviations of the values.
    """

    images: np.ndarray
    range: np.ndarray
    growth: np.ndarray
    mean_error: np.ndarray


def of_images(
    image_min: np.ndarray,
    image_max: np.ndarray,
    image_mean: np.ndarray,
    value_std: np.ndarray,
) -> Convergence:
    """Tell how settled range and mean are, for all layers and steps.

    Args:
        image_min: least value of each image, shape (layer, step, image).
        image_max: greatest value of each image, of the same shape.
        image_mean: mean of each image's values, of the same shape.
        value_std: standard deviation of all values, shape (layer, step).

    Raises:
        ValueError: if the shapes disagree.
    """
    low, high = _paired(image_min, image_max)
    image_mean, value_std = np.asarray(image_mean), np.asarray(value_std)
    if image_mean.shape != low.shape or value_std.shape != low.shape[:-1]:
        raise ValueError(
            f"extremes of shape {low.shape} with means of shape {image_mean.shape} and standard "
            f"deviations of shape {value_std.shape}"
        )
    whole = np.fmax.reduce(high, axis=-1) - np.fmin.reduce(low, axis=-1)
    half = _expected_with_half(high) + _expected_with_half(-low)
    return Convergence(
        images=np.isfinite(low).sum(axis=-1),
        range=whole,
        growth=_quotient(whole - half, half, if_zero=0).clip(min=0),
        mean_error=_quotient(_standard_error(image_mean), value_std, if_zero=0),
    )


def enough(growth: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """Whether the images were enough: at no step did the second half widen the range much.

    Args:
        growth: of the range from half of the images to all, shape (layer, step).
        tolerance: greatest growth that is allowed.

    Returns:
        Shape (layer,), bool; false too where nothing can be said.

    Raises:
        OptionError: if ``tolerance`` is not a finite number above 0.
    """
    if not 0 < tolerance < np.inf:
        raise OptionError(f"tolerance must be a finite number above 0, got {tolerance!r}")
    worst = np.fmax.reduce(np.asarray(growth), axis=-1)
    return np.asarray(worst <= tolerance)  # false for NaN


def range_curve(
    image_min: np.ndarray, image_max: np.ndarray, sizes: int | np.ndarray
) -> np.ndarray:
    """Range that fewer images are expected to show, over the range that all of them show.

    The range of a subset is its greatest value less its least, and the expectation of a
    difference is that of its terms, whatever they have to do with each other.

    Args:
        image_min: least value of each image, shape (layer, step, image).
        image_max: greatest value of each image, of the same shape.
        sizes: numbers of images; a number, or shape (size,).

    Returns:
        Shape (layer, step), or (layer, step, size), in [0, 1]; 1 where all values are the same,
        NaN where there are fewer images.

    Raises:
        OptionError: if ``sizes`` are not whole numbers of at least 1.
        ValueError: if the shapes of the extremes differ.
    """
    low, high = _paired(image_min, image_max)
    whole = np.fmax.reduce(high, axis=-1) - np.fmin.reduce(low, axis=-1)
    expected = expected_extreme(high, sizes) + expected_extreme(-low, sizes)
    curve = _quotient(expected, whole[..., None] if np.ndim(sizes) else whole, if_zero=1)
    return curve.clip(0, 1)


def expected_extreme(values: np.ndarray, size: int | np.ndarray) -> np.ndarray:
    """Expected maximum of a random subset of the images, drawn without replacement.

    ``sum_k x_k C(k-1, m-1) / C(n, m)``: the mean of the maxima of all subsets of size ``m``.
    For the expected minimum, negate the values and the result.

    Args:
        values: of each image, shape (..., image).
        size: images in the subset; a number, or shape (size,).

    Returns:
        Shape (...), or (..., size); NaN where there are fewer images.

    Raises:
        OptionError: if ``size`` is not a whole number of at least 1.

    >>> expected_extreme(np.array([1.0, 2.0, 3.0]), np.array([1, 2, 3])).round(3)
    array([2.   , 2.667, 3.   ])
    """
    sizes = np.atleast_1d(np.asarray(size))
    if not (np.issubdtype(sizes.dtype, np.integer) and (sizes >= 1).all()):
        raise OptionError(f"a number of images must be a whole number of at least 1, got {size!r}")
    rows, counts = _descending(values)
    result = np.full((len(rows), len(sizes)), np.nan)
    for count, members in _by_count(counts):
        fits = np.flatnonzero(sizes <= count)
        weights = _subset_weights(count, sizes[fits])
        result[np.ix_(members, fits)] = rows[members, :count] @ weights.T
    return result.reshape(np.shape(values)[:-1] + np.shape(size))


def _paired(image_min: np.ndarray, image_max: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Extremes of the images that have both, float64; NaN for the others."""
    low, high = np.asarray(image_min, dtype=float), np.asarray(image_max, dtype=float)
    if low.ndim == 0 or low.shape != high.shape:
        raise ValueError(
            f"extremes of images must have the same shape, got {low.shape} and {high.shape}"
        )
    both = np.isfinite(low) & np.isfinite(high)
    return np.where(both, low, np.nan), np.where(both, high, np.nan)


def _descending(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted rows, greatest first and NaN last, shape (row, image); and images in each."""
    values = np.asarray(values)
    rows = values.reshape(-1, values.shape[-1])
    finite = np.isfinite(rows)
    return -np.sort(np.where(finite, -rows, np.nan), axis=1), finite.sum(axis=1)


def _by_count(counts: np.ndarray, at_least: int = 1) -> Iterator[tuple[int, np.ndarray]]:
    """Rows by their number of images, which nearly all have in common."""
    for count in np.unique(counts[counts >= at_least]).tolist():
        yield count, np.flatnonzero(counts == count)


def _quotient(numerator: np.ndarray, denominator: np.ndarray, if_zero: float) -> np.ndarray:
    """A quotient that is ``if_zero`` where both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = numerator / denominator
    return np.where((numerator == 0) & (denominator == 0), if_zero, quotient)


def _subset_weights(count: int, sizes: np.ndarray) -> np.ndarray:
    """How likely each image is a subset's greatest, the greatest first, shape (size, image).

    ``C(n-1-j, m-1) / C(n, m)`` for the one with ``j`` above it, by its ratio to the one before:
    factors in [0, 1] alone, so nothing overflows or cancels.
    """
    above = np.arange(count - 1)
    size = sizes[:, None]
    ratio = (count - size - above).clip(min=0) / (count - 1 - above)
    return np.cumprod(np.concatenate([size / count, ratio], axis=1), axis=1)


def _expected_with_half(values: np.ndarray) -> np.ndarray:
    """Expected maximum with half of the images, shape (...); NaN for fewer than two.

    For an odd number of images: the mean of the two sizes next to the half.
    """
    rows, counts = _descending(values)
    result = np.full(len(rows), np.nan)
    for count, members in _by_count(counts, at_least=2):
        weights = _subset_weights(count, np.array([count // 2, (count + 1) // 2]))
        result[members] = rows[members, :count] @ weights.mean(axis=0)
    return result.reshape(values.shape[:-1])


def _standard_error(means: np.ndarray) -> np.ndarray:
    """Standard error of the mean of images' means, shape (...); NaN for fewer than two."""
    finite = np.isfinite(means)
    count = finite.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.sum(means, axis=-1, where=finite, dtype=np.float64) / count
        squares = np.sum((means - mean[..., None]) ** 2, axis=-1, where=finite)
        return np.asarray(np.sqrt(squares / (count - 1) / count))

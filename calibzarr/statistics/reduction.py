"""What is kept of one observed array: counts, sums and extremes, by image."""

from dataclasses import dataclass

import numpy as np

from calibzarr.statistics.histogram import LogBins


@dataclass(frozen=True)
class Reduction:
    """A batch's values at one layer, reduced.

    Attributes:
        histogram: finite values of all images, shape (bin,), int64.
        non_finite: infinities and NaN of all images.
        value_count: finite values, shape (image,), int64.
        value_sum: shape (image,), float64.
        square_sum: sum of squares, shape (image,), float64.
        feature_min: shape (image, feature), float32.
        feature_max: shape (image, feature), float32.
    """

    histogram: np.ndarray
    non_finite: int
    value_count: np.ndarray
    value_sum: np.ndarray
    square_sum: np.ndarray
    feature_min: np.ndarray
    feature_max: np.ndarray


def reduce(values: np.ndarray, bins: LogBins) -> Reduction:
    """Reduce the values of a batch.

    Args:
        values: shape (guidance, image, token, feature), float32: under guidance an image has
            values from its prompt and from the negative prompt.
        bins: of the histogram.
    """
    feature_min, feature_max = values.min(axis=(0, 2)), values.max(axis=(0, 2))
    if not (np.isfinite(feature_min).all() and np.isfinite(feature_max).all()):
        return _reduce_finite(values, bins)
    wide = values.astype(np.float64)
    num_images = values.shape[1]
    return Reduction(
        histogram=bins.counts(np.ascontiguousarray(values)),
        non_finite=0,
        value_count=np.full(num_images, values.size // num_images, dtype=np.int64),
        value_sum=wide.sum(axis=(0, 2, 3)),
        square_sum=np.einsum("gitf,gitf->i", wide, wide),
        feature_min=feature_min,
        feature_max=feature_max,
    )


def _reduce_finite(values: np.ndarray, bins: LogBins) -> Reduction:
    """Reduce what is finite, and count the rest; slower, and hardly ever needed."""
    finite = np.isfinite(values)
    wide = np.where(finite, values, 0).astype(np.float64)
    return Reduction(
        histogram=bins.counts(values[finite]),
        non_finite=int(values.size - finite.sum()),
        value_count=finite.sum(axis=(0, 2, 3), dtype=np.int64),
        value_sum=wide.sum(axis=(0, 2, 3)),
        square_sum=np.einsum("gitf,gitf->i", wide, wide),
        feature_min=np.where(finite, values, np.inf).min(axis=(0, 2)),
        feature_max=np.where(finite, values, -np.inf).max(axis=(0, 2)),
    )

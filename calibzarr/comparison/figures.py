"""Figures over images, each with an interval by a paired bootstrap."""

from collections.abc import Callable
from dataclasses import dataclass
from math import nan

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 1000
_SEED = 0


@dataclass(frozen=True)
class Figure:
    """A value, and the interval that it lies in with 95 % confidence; NaN from one image alone."""

    value: float
    low: float = nan
    high: float = nan


def resamples(num_images: int, count: int = RESAMPLES) -> np.ndarray:
    """Images drawn with replacement, the same ones whenever as many are drawn from.

    Figures that take the same draws are paired: an image is in a resample with all that is known
    of it, of the reference and of every run.

    Returns:
        Shape (resample, image), indices.
    """
    return np.random.default_rng(_SEED).integers(0, num_images, (count, num_images))


def of_samples(value: float, samples: np.ndarray) -> Figure:
    """A figure with the percentile interval of its resamples (Efron and Tibshirani 1993, 13.3).

    Args:
        value: of all images.
        samples: of the resamples, shape (resample,).
    """
    low, high = interval(samples)
    return Figure(float(value), float(low), float(high))


def interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the percentile interval along the first axis.

    They are two of the resamples, without interpolation: infinite ones are as good as others.
    """
    ordered = np.sort(samples, axis=0)
    rank = int((1 - CONFIDENCE) / 2 * len(samples))
    return ordered[rank], ordered[-1 - rank]


def over_images(values: np.ndarray, statistic: Callable[..., np.ndarray] = np.mean) -> Figure:
    """A statistic of one value an image, such as the mean or the median.

    Args:
        values: shape (image,).
        statistic: takes ``axis``.
    """
    value = float(statistic(values, axis=0))
    if len(values) < 2:
        return Figure(value)
    return of_samples(value, statistic(values[resamples(len(values))], axis=1))


def ratio_samples(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Ratios of sums over resampled images.

    Args:
        numerator: shape (image, step).
        denominator: likewise.

    Returns:
        Shape (resample, step).
    """
    num_images = len(numerator)
    draws = resamples(num_images)
    counts = np.array([np.bincount(draw, minlength=num_images) for draw in draws], dtype=float)
    return np.asarray((counts @ numerator) / (counts @ denominator))


def decibels(ratio: np.ndarray | float) -> np.ndarray:
    """``-10 log10(ratio)``: of error over power an SQNR, infinite where there is no error."""
    with np.errstate(divide="ignore"):
        return np.asarray(-10 * np.log10(ratio))

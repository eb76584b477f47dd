"""Expected error of uniform quantization, from histograms: NumPy in, NumPy out.

A value v becomes the nearest of evenly spaced levels, one of which is 0. Within a bin, values
are taken to be spread evenly, so the error of a bin is an integral with a closed form, and that
of any histogram is a product of its counts and one vector.
"""

import numpy as np

from calibzarr.quantization.levels import Levels
from calibzarr.statistics.histogram import LogBins


def _integral(edges: np.ndarray, levels: Levels, p: float) -> tuple[np.ndarray, np.ndarray]:
    """Integral of ``(p + 1) |v - Q(v)|**p`` from 0 to each edge, and distances to the levels.

    Units are those of the edges over the step size, shapes (..., edge).
    """
    step, lowest, highest = (
        np.asarray(array)[..., None] for array in (levels.step_size, levels.lowest, levels.highest)
    )
    rest = edges / step
    level = np.rint(rest)
    np.maximum(level, lowest, out=level)  # these two are faster than np.clip
    np.minimum(level, highest, out=level)
    rest -= level
    integral = np.square(rest) if p == 2 else np.abs(rest) ** p
    integral *= rest
    level *= 0.5**p  # each whole cell adds 2 (1/2)**(p + 1)
    integral += level
    return integral, rest


def bin_errors(edges: np.ndarray, levels: Levels, p: float = 2) -> np.ndarray:
    """Mean of ``|v - Q(v)|**p`` over the values of each bin.

    Args:
        edges: finite and rising, shape (bin + 1,), activation units.
        levels: of the quantizers, shape (...).
        p: exponent.

    Returns:
        Shape (..., bin), activation units to the power of ``p``.
    """
    scale = levels.step_size[..., None] ** (p + 1) / (p + 1)
    return np.asarray(np.diff(_integral(edges, levels, p)[0], axis=-1) * (scale / np.diff(edges)))


def expected_errors(counts: np.ndarray, edges: np.ndarray, levels: Levels, p: float) -> np.ndarray:
    """Expected errors with several quantizers for each histogram, rounding and clipping together.

    Args:
        counts: shape (row, bin), float64.
        edges: rising, of each histogram, shape (row, bin + 1), activation units. All values of a
            bin without a width are its edge.
        levels: of the quantizers, shape (row, quantizer).
        p: exponent.

    Returns:
        Mean of ``|v - Q(v)|**p``, shape (row, quantizer); NaN where nothing was counted.
    """
    width = np.diff(edges, axis=1)
    flat = width <= 0
    density = np.where(flat, 0, counts) / np.where(flat, 1, width)
    # The sum over bins of density times the integral's increase, by parts.
    weight = -np.diff(density, axis=1, prepend=0, append=0)
    points = np.where(flat, counts, 0) if (counts[flat] > 0).any() else None
    result = np.empty(levels.step_size.shape)
    for column in range(levels.step_size.shape[1]):
        quantizer = levels.at((slice(None), column))
        step = quantizer.step_size
        integral, rest = _integral(edges, quantizer, p)
        total = np.einsum("re,re->r", weight, integral) * step ** (p + 1) / (p + 1)
        if points is not None:
            total += np.einsum("rb,rb->r", points, np.abs(rest[:, :-1]) ** p) * step**p
        result[:, column] = mean(total, counts)
    return np.maximum(result, 0)  # rounding of what is 0


def mean_power(counts: np.ndarray, bins: LogBins) -> np.ndarray:
    """Mean square of the counted values, shape (...); NaN where nothing was counted."""
    low, high = bins.low.copy(), bins.high.copy()
    low[0], high[-1] = high[0], low[-1]  # open bins hold their finite edge
    total = np.einsum("...b,b->...", counts, (low * low + low * high + high * high) / 3)
    return mean(total, counts)


def mean(total: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """A sum over counted values by their number, shape (...); NaN where nothing was counted."""
    number = counts.sum(axis=-1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)

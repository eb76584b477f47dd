"""Clipping ranges as a recommendation wants them, with the errors that they make."""

import numpy as np

from calibzarr.advice.methods.base import CHOICES, Method
from calibzarr.advice.options import Options
from calibzarr.quantization.clipping import Clipping, clipping_range
from calibzarr.quantization.histograms import Histograms


def clipping_ranges(
    rows: Histograms, method: Method, options: Options, bits: tuple[int, ...] = CHOICES
) -> tuple[np.ndarray, np.ndarray]:
    """Clipping ranges of activations: by the method's own way, or by that of the options.

    Args:
        rows: what was observed, shape (...).
        method: of the options.
        options: of the recommendation.
        bits: numbers of bits that a range is wanted for.

    Returns:
        Lower and upper ends, each of shape (..., len(bits)), activation units.
    """
    if method.clipping is None:
        return clipping_range(options.clip, rows, bits)
    low, high = method.clipping(rows)
    shape = (*low.shape, len(bits))
    return np.broadcast_to(low[..., None], shape), np.broadcast_to(high[..., None], shape)


def clipped(
    rows: Histograms, low: np.ndarray, high: np.ndarray, *, symmetric: bool = False
) -> Clipping:
    """Given ranges for each of ``CHOICES``, with the relative errors of these rows.

    Args:
        rows: shape (...).
        low: lower ends, or what broadcasts against shape (..., choice).
        high: upper ends, likewise.
        symmetric: whether the levels are.
    """
    shape = (*rows.value_min.shape, len(CHOICES))
    low, high = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
    error = rows.error(low, high, np.array(CHOICES), symmetric=symmetric)
    power = rows.power[..., None]
    return Clipping(low, high, error / np.where(power > 0, power, 1))

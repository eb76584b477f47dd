"""Quantization as it is defined, value by value."""

import numpy as np


def quantized(values, clip_min, clip_max, bits, symmetric):
    """The nearest level of a step size and a zero point, as frameworks compute it."""
    low, high, bits = min(clip_min, 0), max(clip_max, 0), int(bits)
    if low == high:
        return np.zeros_like(values)
    if symmetric:
        step = max(-low, high) / (2 ** (bits - 1) - 1)
        return np.rint(values / step).clip(1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) * step
    step = (high - low) / (2**bits - 1)
    zero_point = np.floor(-low / step + 0.5 + 1e-9)
    return ((np.rint(values / step) + zero_point).clip(0, 2**bits - 1) - zero_point) * step


def measured(values, clip_min, clip_max, bits, symmetric=False, p=2):
    values = values.astype(np.float64)
    errors = np.abs(values - quantized(values, clip_min, clip_max, bits, symmetric)) ** p
    return errors.mean()


def in_observed(found, values):
    """Ends of clipping ranges; the one that is 0 for values of one sign as their own end."""
    low, high = values.min().astype(float), values.max().astype(float)
    return np.clip(found.clip_min, low, high), np.clip(found.clip_max, low, high)


def searched(values, bits, symmetric, found):
    """Least error over thresholds, on the values themselves.

    Some twenty an octave near the threshold that was found, to see whether it can be bettered,
    and three an octave elsewhere.
    """
    low, high = values.min().astype(float), values.max().astype(float)
    reach = max(-low, high)
    thresholds = np.append(
        reach * 2.0 ** -np.arange(0, 8, 1 / 3), found * 2.0 ** np.linspace(-0.5, 0.5, 21)
    )
    return min(
        measured(values, max(low, -own), min(high, own), bits, symmetric)
        for own in thresholds[thresholds <= reach]
    )

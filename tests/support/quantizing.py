"""Quantization as it is defined, value by value."""

import numpy as np

from calibzarr.quantization.histograms import Histograms


def distributions():
    generator = np.random.default_rng(0)
    normal = generator.standard_normal(50_000)
    raw = {
        "normal": normal,
        "heavy-tailed": 30 * generator.standard_t(2.5, 50_000),
        "Laplace": generator.laplace(size=50_000),
        "uniform": generator.uniform(-1.01, 1.3, 50_000),
        "outliers": np.append(normal, [60.0, -45.0, 80.0]),
        "positive": np.abs(normal),
        "negative": -np.abs(normal),
    }
    return {name: values.astype(np.float32) for name, values in raw.items()}


VALUES = distributions()


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


def histograms(counts, bins, low=None, high=None):
    """Histograms of shape (..., bin) with known extremes; those of the filled bins if None."""
    counts = np.asarray(counts)
    if low is None:
        filled = counts > 0
        first = filled.argmax(axis=-1)
        last = counts.shape[-1] - 1 - filled[..., ::-1].argmax(axis=-1)
        some = filled.any(axis=-1)
        low = np.where(some, np.where(np.isinf(bins.low), bins.high, bins.low)[first], np.nan)
        high = np.where(some, np.where(np.isinf(bins.high), bins.low, bins.high)[last], np.nan)
    return Histograms.of_counts(counts, bins, np.asarray(low), np.asarray(high))

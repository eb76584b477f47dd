"""Bins, counting and quantiles: NumPy in, NumPy out; imports nothing of ours."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class LogBins:
    """Signed logarithmic bins, the same for all layers and steps, so that counts add.

    Each octave of magnitudes is divided evenly, so a bin is the values that share the sign, the
    exponent and the first bits of the mantissa: counting needs no comparison with edges. The
    bin around zero holds all smaller magnitudes, the outermost two all larger ones.

    Attributes:
        min_exponent: magnitudes below ``2**min_exponent`` share the bin around zero.
        max_exponent: the outermost bins, which hold all larger magnitudes, begin one bin below
            ``2**max_exponent``.
        mantissa_bits: an octave has ``2**mantissa_bits`` bins, of a relative width of at most
            ``2**-mantissa_bits``.
    """

    min_exponent: int = -20
    max_exponent: int = 24
    mantissa_bits: int = 6

    @property
    def per_sign(self) -> int:
        """Bins of one sign."""
        return (self.max_exponent - self.min_exponent) << self.mantissa_bits

    @property
    def count(self) -> int:
        """Number of bins."""
        return 2 * self.per_sign + 1

    @cached_property
    def low(self) -> np.ndarray:
        """Lower edges, shape (bin,), in activation units; the first is minus infinity."""
        return -self.high[::-1]

    @cached_property
    def high(self) -> np.ndarray:
        """Upper edges, shape (bin,), in activation units; the last is infinity."""
        octave = 1 + np.arange(1 << self.mantissa_bits) / (1 << self.mantissa_bits)
        exponents = np.arange(self.min_exponent, self.max_exponent)
        positive = (2.0 ** exponents[:, None] * octave).ravel()
        return np.concatenate([-positive[::-1], positive, [np.inf]])

    @cached_property
    def of_high_halves(self) -> np.ndarray:
        """Bin of each float32 by its upper 16 bits, shape (65536,).

        Infinities and NaN have patterns too; what they map to means nothing.
        """
        patterns = np.arange(1 << 16, dtype=np.int64)
        position = (patterns & 0x7FFF) >> (7 - self.mantissa_bits)
        position -= (127 + self.min_exponent) << self.mantissa_bits
        magnitude = np.clip(position + 1, 0, self.per_sign)  # 0 for the bin around zero
        sign = np.where(patterns >> 15, -1, 1)
        return np.asarray(self.per_sign + sign * magnitude)

    def counts(self, values: np.ndarray) -> np.ndarray:
        """Count finite values.

        Args:
            values: any shape, float32, C-contiguous.

        Returns:
            Shape (bin,), int64.
        """
        halves = values.reshape(-1).view(np.uint16)[_HIGH_HALF::2]
        if len(halves) < 1 << 16:
            return np.bincount(self.of_high_halves[halves], minlength=self.count)
        counts = np.bincount(halves, minlength=1 << 16)  # first by pattern: fewer look-ups
        seen = np.flatnonzero(counts)
        bins = np.zeros(self.count, dtype=np.int64)
        np.add.at(bins, self.of_high_halves[seen], counts[seen])
        return bins


_ROWS = 256  # histograms that are searched together
_GROUP = 64  # bins that a search first passes over together
_HIGH_HALF = int(np.little_endian)  # index of a float32's upper half among its two


def representative(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The value that stands for each bin: its middle, or the finite edge of an open one.

    Args:
        low: lower edges, shape (bin,), in activation units.
        high: upper edges, shape (bin,), in activation units.

    Returns:
        Shape (bin,), activation units.
    """
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    return np.where(np.isinf(low), high, np.where(np.isinf(high), low, (low + high) / 2))


BINS = LogBins()
"""Those that calibzarr counts on."""


def quantile(
    counts: np.ndarray, low: np.ndarray, high: np.ndarray, q: float | np.ndarray
) -> np.ndarray:
    """Quantiles of all histograms at once, interpolated between neighbours as NumPy does.

    Args:
        counts: observations per bin, shape (..., bin), integer.
        low: increasing lower edges, shape (bin,), in activation units.
        high: increasing upper edges, shape (bin,), in activation units.
        q: fractions in [0, 1], not percent; a number, or shape (quantile,).

    Returns:
        Shape (...), or (..., quantile), activation units; NaN where nothing was counted. Each
        of the two neighbours is off by at most half of its bin's width.

    Raises:
        ValueError: if ``q`` is outside [0, 1], or ``counts`` and the edges disagree.

    >>> bins = LogBins()
    >>> counts = bins.counts(np.array([-2.0, 1.0, 3.0], dtype=np.float32))
    >>> quantile(counts, bins.low, bins.high, [0.0, 0.5, 0.75]).round(2)
    array([-2.02,  1.01,  2.01])
    """
    fractions = np.atleast_1d(np.asarray(q, dtype=np.float64))
    if not ((fractions >= 0) & (fractions <= 1)).all():
        raise ValueError(f"q must be fractions in [0, 1], got {q!r}")
    counts = np.asarray(counts)
    middle = representative(low, high)
    if counts.shape[-1] != len(middle):
        raise ValueError(f"counts have {counts.shape[-1]} bins, but the edges {len(middle)}")
    rows = counts.reshape(-1, len(middle))
    result = np.empty((len(rows), len(fractions)))
    for first in range(0, len(rows), _ROWS):  # temporaries that fit a processor's cache
        block = slice(first, first + _ROWS)
        result[block] = _quantiles(rows[block], middle, fractions)
    return result.reshape(counts.shape[:-1] + np.shape(q))


def fraction_below(
    counts: np.ndarray, low: np.ndarray, high: np.ndarray, value: np.ndarray
) -> np.ndarray:
    """The share of the values that is less than a value, spread evenly within a bin.

    Args:
        counts: observations per bin, shape (..., bin), integer.
        low: increasing lower edges, shape (bin,), in activation units.
        high: increasing upper edges, shape (bin,), in activation units.
        value: shape (...), in activation units.

    Returns:
        Shape (...), in [0, 1]; NaN where nothing was counted, or the value is NaN.
    """
    index = np.minimum(np.searchsorted(high, value, side="right"), len(high) - 1)
    bottom, top = low[index], high[index]
    with np.errstate(invalid="ignore"):
        share = np.clip((value - bottom) / (top - bottom), 0, 1)
    share = np.where(np.isinf(top), value > bottom, np.where(np.isinf(bottom), value >= top, share))
    cumulative = counts.cumsum(axis=-1)
    inside, upto = (
        np.take_along_axis(array, index[..., None], axis=-1)[..., 0]
        for array in (counts, cumulative)
    )
    total = cumulative[..., -1]
    known = (total > 0) & ~np.isnan(value)
    below = upto - inside * (1 - share)
    return np.where(known, below / np.maximum(total, 1), np.nan)


def _quantiles(counts: np.ndarray, middle: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Quantiles of histograms, shape (row, quantile)."""
    starts = np.arange(0, len(middle), _GROUP)
    groups = np.add.reduceat(counts, starts, axis=1).cumsum(axis=1)
    last = np.maximum(groups[:, -1:] - 1, 0)
    position = fractions * last
    below = np.floor(position).astype(np.int64)
    ranks = np.concatenate([below, np.minimum(below + 1, last)], axis=1)
    first, second = np.split(middle[_bins_of_ranks(counts, starts, groups, ranks)], 2, axis=1)
    result = first + (position - below) * (second - first)
    return np.where(groups[:, -1:] == 0, np.nan, result)


def _bins_of_ranks(
    counts: np.ndarray, starts: np.ndarray, groups: np.ndarray, ranks: np.ndarray
) -> np.ndarray:
    """Bin of the observation of each rank from 0, shape (row, rank).

    Searches first among the cumulative counts of groups of bins, then within one group.
    """
    last = counts.shape[1] - 1
    group = (groups[:, None, :] <= ranks[:, :, None]).sum(axis=-1).clip(max=len(starts) - 1)
    row = np.arange(len(counts))[:, None]
    before = np.where(group > 0, groups[row, group - 1], 0)
    bins = starts[group][:, :, None] + np.arange(_GROUP)
    inside = counts[row[:, :, None], bins.clip(max=last)].cumsum(axis=-1)
    within = (inside <= (ranks - before)[:, :, None]).sum(axis=-1)
    return np.asarray(np.minimum(starts[group] + within, last))

"""Expected error of uniform quantization, from histograms: NumPy in, NumPy out.

A value v becomes the nearest of evenly spaced levels, one of which is 0. Within a bin, values
are taken to be spread evenly, so the error of a bin is an integral with a closed form, and that
of any histogram is a product of its counts and one vector.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from calibzarr.statistics.histogram import LogBins

BITS = (2, 3, 4, 5, 6, 7, 8)

BLOCK = 64  # histograms that are looked at together
OCTAVES = 16  # of magnitudes below a histogram's greatest that a search tells apart


@dataclass(frozen=True)
class Levels:
    """Levels of uniform quantizers: multiples of a step size. All arrays broadcast.

    Attributes:
        step_size: distance of neighbouring levels, activation units.
        lowest: the lowest level over the step size; an integer, 0 or less.
        highest: the highest level over the step size; an integer, 0 or more.
    """

    step_size: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray

    def at(self, places: slice | np.ndarray) -> "Levels":
        """Some of the quantizers."""
        return Levels(self.step_size[places], self.lowest[places], self.highest[places])

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """The nearest level of each value."""
        return self.step_size * np.clip(np.rint(values / self.step_size), self.lowest, self.highest)


def levels(
    clip_min: np.ndarray, clip_max: np.ndarray, bits: np.ndarray, symmetric: bool = False
) -> Levels:
    """Levels that span a clipping range.

    Affine ones are ``2**bits`` of step size ``(clip_max - clip_min) / (2**bits - 1)``, with an
    integer zero point, of two equally near the one that gives more levels below 0; symmetric
    ones are ``2**bits - 1``, as many above 0 as below.

    Args:
        clip_min: activation units; above 0 counts as 0.
        clip_max: activation units; below 0 counts as 0.
        bits: 2 or more.
        symmetric: whether the range is widened to its greater magnitude on both sides.
    """
    clip_min = np.minimum(clip_min, 0).astype(np.float64)
    clip_max = np.maximum(clip_max, 0).astype(np.float64)
    bits = np.asarray(bits)
    if symmetric:
        highest = 2 ** (bits - 1) - 1
        step_size = np.maximum(-clip_min, clip_max) / highest
        lowest = -highest
    else:
        step_size = (clip_max - clip_min) / (2**bits - 1)
        lowest = np.floor(clip_min / _nonzero(step_size) + 0.5 - 1e-9)  # whatever the rounding
        highest = lowest + 2**bits - 1
    return Levels(*np.broadcast_arrays(_nonzero(step_size), lowest, highest))


def _nonzero(step_size: np.ndarray) -> np.ndarray:
    """Step sizes, those of an empty range replaced by any: it has only the level 0 then."""
    return np.where(step_size > 0, step_size, np.finfo(np.float32).tiny)


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


def mean_power(counts: np.ndarray, bins: LogBins) -> np.ndarray:
    """Mean square of the counted values, shape (...); NaN where nothing was counted."""
    low, high = bins.low.copy(), bins.high.copy()
    low[0], high[-1] = high[0], low[-1]  # open bins hold their finite edge
    total = np.einsum("...b,b->...", counts, (low * low + low * high + high * high) / 3)
    return _mean(total, counts)


def expected_error(
    counts: np.ndarray,
    bins: LogBins,
    clip_min: np.ndarray,
    clip_max: np.ndarray,
    bits: np.ndarray,
    symmetric: bool = False,
    p: float = 2,
    value_min: np.ndarray | None = None,
    value_max: np.ndarray | None = None,
) -> np.ndarray:
    """Expected error, rounding and clipping together, each histogram with its own levels.

    Args:
        counts: shape (..., bin), integer.
        bins: of the histograms.
        clip_min: shape (...), or (..., quantizer) for several of each, activation units.
        clip_max: likewise.
        bits: likewise, or what broadcasts against it.
        symmetric: as for :func:`levels`.
        p: exponent; 2 for the mean squared error.
        value_min: least value, shape (...), activation units; None where it is not known.
        value_max: greatest value, likewise.

    Returns:
        Mean of ``|v - Q(v)|**p``, of the shape of the range; NaN where nothing was counted.
    """
    rows = Rows.of(counts, bins, value_min, value_max)
    shape: tuple[int, ...] = np.broadcast_shapes(
        *(np.shape(array) for array in (clip_min, clip_max, bits))
    )
    if len(shape) < counts.ndim:  # one range for each histogram
        shape = np.broadcast_shapes(shape, counts.shape[:-1])
    low, high, number = (
        np.broadcast_to(array, shape).reshape(len(rows.counts), -1)
        for array in (clip_min, clip_max, bits)
    )
    return rows.errors(levels(low, high, number, symmetric), p).reshape(shape)


def _mean(total: np.ndarray, counts: np.ndarray) -> np.ndarray:
    number = counts.sum(axis=-1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


@dataclass(frozen=True)
class Rows:
    """Histograms one after the other, with the extremes of their values; 0 where none are.

    Attributes:
        bins: of the histograms.
        counts: shape (row, bin).
        value_min: shape (row,), activation units.
        value_max: shape (row,), activation units.
        exponent: the values' magnitudes are up to 2**exponent, shape (row,).
    """

    bins: LogBins
    counts: np.ndarray
    value_min: np.ndarray
    value_max: np.ndarray
    exponent: np.ndarray

    @classmethod
    def of(
        cls,
        counts: np.ndarray,
        bins: LogBins,
        value_min: np.ndarray | None,
        value_max: np.ndarray | None,
    ) -> "Rows":
        """Of histograms of shape (..., bin); from the filled bins where extremes are None."""
        rows = counts.reshape(-1, bins.count)
        if value_min is None or value_max is None:
            value_min, value_max = _filled_ends(rows, bins)
        low, high = (
            np.nan_to_num(np.asarray(end, dtype=np.float64).ravel())
            for end in (value_min, value_max)
        )
        reach = np.maximum(np.abs(low), np.abs(high))
        exponent = np.clip(np.frexp(reach)[1], bins.min_exponent + 1, bins.max_exponent)
        return cls(bins, rows, low, high, exponent)

    def aligned(self, part: slice | np.ndarray) -> "Aligned":
        """Some rows over 2**exponent, on bins that all share."""
        bins, counts, exponent = self.bins, self.counts[part], self.exponent[part]
        width = OCTAVES << bins.mantissa_bits
        first = (exponent - OCTAVES - bins.min_exponent) << bins.mantissa_bits
        place = first[:, None] + np.arange(width)
        known = (place >= 0) & (place < bins.per_sign)
        place = np.clip(place, 0, bins.per_sign - 1) + 1
        below, above = (
            np.where(known, np.take_along_axis(counts, bins.per_sign + side * place, axis=1), 0)
            for side in (-1, 1)
        )
        middle = counts.sum(axis=1) - below.sum(axis=1) - above.sum(axis=1)
        scale = 2.0**exponent
        low, high = ((end[part] / scale)[:, None] for end in (self.value_min, self.value_max))
        edges = np.clip(aligned_edges(bins.mantissa_bits), low, high)
        edges[:, :1], edges[:, -1:] = np.minimum(edges[:, :1], low), np.maximum(edges[:, -1:], high)
        aligned = np.concatenate([below[:, ::-1], middle[:, None], above], axis=1)
        return Aligned(aligned.astype(np.float64), edges, scale)

    def errors(self, levels: Levels, p: float) -> np.ndarray:
        """Expected errors with several quantizers for each row, shape (row, quantizer)."""
        parts = [slice(first, first + BLOCK) for first in range(0, len(self.counts), BLOCK)]
        result = np.empty((len(self.counts), levels.step_size.shape[1]))
        for part in parts:
            result[part] = self.aligned(part).errors(levels.at(part), p)
        return result


@dataclass(frozen=True)
class Aligned:
    """A few histograms on bins that all share, over powers of two.

    Attributes:
        counts: the bin in the middle takes all that is smaller, shape (row, bin), float64.
        edges: none beyond the extremes, shape (row, bin + 1).
        scale: the powers of two, shape (row,).
    """

    counts: np.ndarray
    edges: np.ndarray
    scale: np.ndarray

    def at(self, places: np.ndarray) -> "Aligned":
        """Some of them."""
        return Aligned(self.counts[places], self.edges[places], self.scale[places])

    def errors(self, levels: Levels, p: float) -> np.ndarray:
        """Expected errors with several quantizers for each row, shape (row, quantizer)."""
        width = np.diff(self.edges, axis=1)
        flat = width <= 0  # bins beyond the extremes, or all values are one
        density = np.where(flat, 0, self.counts) / np.where(flat, 1, width)
        # The sum over bins of density times the integral's increase, by parts.
        weight = -np.diff(density, axis=1, prepend=0, append=0)
        points = np.where(flat, self.counts, 0) if (self.counts[flat] > 0).any() else None
        result = np.empty(levels.step_size.shape)
        for column in range(levels.step_size.shape[1]):
            step = levels.step_size[:, column] / self.scale
            own = Levels(step, levels.lowest[:, column], levels.highest[:, column])
            integral, rest = _integral(self.edges, own, p)
            total = np.einsum("re,re->r", weight, integral) * step ** (p + 1) / (p + 1)
            if points is not None:
                total += np.einsum("rb,rb->r", points, np.abs(rest[:, :-1]) ** p) * step**p
            result[:, column] = _mean(total, self.counts) * self.scale**p
        return np.maximum(result, 0)  # rounding of what is 0


@cache
def aligned_edges(mantissa_bits: int) -> np.ndarray:
    """Edges of ``LogBins(-OCTAVES, 0)``, the outermost finite, shape (bin + 1,)."""
    return np.concatenate([[-1.0], LogBins(-OCTAVES, 0, mantissa_bits).high[:-1], [1.0]])


def _filled_ends(rows: np.ndarray, bins: LogBins) -> tuple[np.ndarray, np.ndarray]:
    """Outer edges of the outermost bins that count something, the finite ones of open bins."""
    filled = rows > 0
    first, last = filled.argmax(axis=1), rows.shape[1] - 1 - filled[:, ::-1].argmax(axis=1)
    low = np.where(np.isinf(bins.low), bins.high, bins.low)[first]
    high = np.where(np.isinf(bins.high), bins.low, bins.high)[last]
    some = filled.any(axis=1)
    return np.where(some, low, 0), np.where(some, high, 0)


def sqnr_db(power: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Ratio of mean squares of signal and quantization error, in dB; infinite without error.

    >>> sqnr_db(np.array([1.0]), np.array([0.01]))
    array([20.])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return 10 * np.log10(power / error)

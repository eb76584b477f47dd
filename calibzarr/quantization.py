"""Expected error of uniform quantisation, from histograms: NumPy in, NumPy out.

A value v becomes the nearest of evenly spaced levels, one of which is 0. Within a bin, values
are taken to be spread evenly, so the error of a bin is an integral with a closed form, and that
of any histogram is a product of its counts and one vector.
"""

from dataclasses import dataclass

import numpy as np

from calibzarr.histogram import LogBins

BITS = (2, 3, 4, 5, 6, 7, 8)

_ROWS = 64  # histograms whose own levels are looked at together
_OCTAVES = 16  # of magnitudes below a histogram's greatest that a search tells apart
_PER_OCTAVE = 12  # thresholds that a search tries
_THRESHOLD_OCTAVES = 8
_NO_END = -1  # of a histogram without values on one side of 0


@dataclass(frozen=True)
class Levels:
    """Levels of uniform quantisers: multiples of a step size. All arrays broadcast.

    Attributes:
        step_size: distance of neighbouring levels, activation units.
        lowest: the lowest level over the step size; an integer, 0 or less.
        highest: the highest level over the step size; an integer, 0 or more.
    """

    step_size: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray

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
    return Levels(_nonzero(step_size), *np.broadcast_arrays(lowest, highest))


def _nonzero(step_size: np.ndarray) -> np.ndarray:
    """Step sizes, those of an empty range replaced by any: it has only the level 0 then."""
    return np.where(step_size > 0, step_size, np.finfo(np.float32).tiny)


def bin_errors(low: np.ndarray, high: np.ndarray, levels: Levels, p: float = 2) -> np.ndarray:
    """Mean of ``|v - Q(v)|**p`` over the values of each bin.

    Args:
        low: lower edges, shape (bin,), activation units.
        high: upper edges, shape (bin,), activation units; where one edge of a bin is infinite,
            all its values count as the other.
        levels: of the quantisers, shape (...).
        p: exponent.

    Returns:
        Shape (..., bin), activation units to the power of ``p``.
    """
    step, lowest, highest = (
        array[..., None] for array in np.broadcast_arrays(*vars(levels).values())
    )
    at_edge = np.isinf(low) | np.isinf(high)
    low, high = np.where(np.isinf(low), high, low), np.where(np.isinf(high), low, high)
    edges = np.append(low, high[-1])
    scaled = edges / step
    level = np.clip(np.rint(scaled), lowest, highest)
    rest = scaled - level
    # Integral of |u - round(u)|**p, times p + 1: each whole cell adds 2 (1/2)**(p + 1).
    integral = level * 0.5**p + np.abs(rest) ** p * rest
    width = np.where(at_edge, 1, high - low)
    mean = np.diff(integral, axis=-1) * step / ((p + 1) * width)
    if at_edge.any():
        mean[..., at_edge] = np.abs(rest[..., :-1][..., at_edge]) ** p
    return mean * step**p


def mean_power(counts: np.ndarray, bins: LogBins) -> np.ndarray:
    """Mean square of the counted values, shape (...); NaN where nothing was counted."""
    low, high = _finite_edges(bins)
    return _mean(counts @ ((low * low + low * high + high * high) / 3), counts)


def _finite_edges(bins: LogBins) -> tuple[np.ndarray, np.ndarray]:
    low, high = bins.low.copy(), bins.high.copy()
    low[0], high[-1] = high[0], low[-1]
    return low, high


def _mean(total: np.ndarray, counts: np.ndarray) -> np.ndarray:
    number = counts.sum(axis=-1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def expected_error(
    counts: np.ndarray,
    bins: LogBins,
    clip_min: np.ndarray,
    clip_max: np.ndarray,
    bits: np.ndarray,
    symmetric: bool = False,
    p: float = 2,
) -> np.ndarray:
    """Expected error, rounding and clipping together, each histogram with its own levels.

    Args:
        counts: shape (..., bin), integer.
        bins: of the histograms.
        clip_min: shape (...), activation units.
        clip_max: shape (...), activation units.
        bits: shape (...), or one number for all.
        symmetric: as for :func:`levels`.
        p: exponent; 2 for the mean squared error.

    Returns:
        Mean of ``|v - Q(v)|**p``, shape (...); NaN where nothing was counted.
    """
    rows = counts.reshape(-1, bins.count)
    spread = [
        np.broadcast_to(array, counts.shape[:-1]).ravel() for array in (clip_min, clip_max, bits)
    ]
    result = np.empty(len(rows))
    for first in range(0, len(rows), _ROWS):  # temporaries that fit a processor's cache
        part = slice(first, first + _ROWS)
        own = levels(spread[0][part], spread[1][part], spread[2][part], symmetric)
        errors = bin_errors(bins.low, bins.high, own, p)
        result[part] = _mean(np.einsum("rb,rb->r", rows[part], errors), rows[part])
    return result.reshape(counts.shape[:-1])


@dataclass(frozen=True)
class Clipping:
    """Clipping ranges and the errors that are expected with them.

    Attributes:
        clip_min: activation units.
        clip_max: activation units.
        error: mean of ``|v - Q(v)|**p``.
    """

    clip_min: np.ndarray
    clip_max: np.ndarray
    error: np.ndarray


def best_clipping(
    counts: np.ndarray,
    bins: LogBins,
    value_min: np.ndarray,
    value_max: np.ndarray,
    bits: tuple[int, ...] = BITS,
    symmetric: bool = False,
    p: float = 2,
) -> Clipping:
    """The clipping range of least expected error, for every histogram and number of bits.

    A threshold bounds the magnitude: each end of the range is the observed extreme or the
    threshold, whichever is nearer to 0. 97 thresholds are tried, twelve an octave, and the best
    is refined between its neighbours. Minimising
    the expected squared error over the range follows Banner et al. 2019 (arXiv 1810.05723),
    with the histogram in the place of their parametric densities; ``p`` of 2.4 is the Lp norm
    that Q-Diffusion's (arXiv 2302.04304) code takes.

    Args:
        counts: shape (..., bin), integer.
        bins: of the histograms.
        value_min: least value, shape (...), activation units.
        value_max: greatest value, shape (...), activation units.
        bits: numbers of bits to search for.
        symmetric: as for :func:`levels`.
        p: exponent.

    Returns:
        Arrays of shape (..., len(bits)); NaN where nothing was counted. A range may reach past
        the observed values, by less than the distance of two thresholds.
    """
    shape = counts.shape[:-1]
    rows = counts.reshape(-1, bins.count)
    least, greatest = (
        np.clip(np.nan_to_num(array.reshape(-1).astype(np.float64)) * sign, 0, None)
        for array, sign in ((value_min, -1), (value_max, 1))
    )
    longer, shorter = np.maximum(least, greatest), np.minimum(least, greatest)
    exponent = np.minimum(np.frexp(longer)[1], bins.max_exponent)  # 2**exponent covers all
    with np.errstate(divide="ignore"):
        place = np.floor(-np.log2(shorter / 2.0**exponent) * _PER_OCTAVE)
    # Rows whose shorter ends are the same part of the longer ones share all their levels.
    place = np.where(shorter > 0, np.clip(place, 0, _PER_OCTAVE * _OCTAVES), _NO_END).astype(int)
    mirrored = least > greatest
    threshold = 2.0 ** (-np.arange(_PER_OCTAVE * _THRESHOLD_OCTAVES + 1) / _PER_OCTAVE)
    relative = LogBins(-_OCTAVES, 0)
    low, high = np.clip(relative.low, -1, None), np.clip(relative.high, None, 1)
    kernel = np.empty((len(bits), len(threshold), relative.count))
    ends = np.empty((2, len(rows), len(bits)))
    errors = np.empty((len(rows), len(bits)))
    for own, is_mirrored in np.unique(np.stack([place, mirrored]), axis=1).T:
        members = np.flatnonzero((place == own) & (mirrored == is_mirrored))
        other = np.minimum(threshold, 0 if own == _NO_END else 2.0 ** (-own / _PER_OCTAVE))
        tried = np.stack([-threshold, other] if is_mirrored else [-other, threshold])
        for index, number in enumerate(bits):
            kernel[index] = bin_errors(
                low, high, levels(tried[0], tried[1], np.asarray(number), symmetric), p
            )
        aligned = _aligned(rows[members], exponent[members], bins)
        total = (aligned @ kernel.reshape(-1, relative.count).T).reshape(
            len(members), len(bits), -1
        )
        best = total.argmin(axis=-1)
        error = _mean(np.take_along_axis(total, best[..., None], -1)[..., 0].T, aligned).T
        scale = 2.0 ** exponent[members][:, None]
        errors[members] = error * scale**p
        finer = threshold[best] * 2.0 ** (-_vertex(total, best) / _PER_OCTAVE) * scale
        other_end = np.minimum(finer, other.max() * scale)
        ends[:, members] = [-finer, other_end] if is_mirrored else [-other_end, finer]
    ends[:, rows.sum(axis=1) == 0] = np.nan
    return Clipping(*(array.reshape(*shape, len(bits)) for array in (*ends, errors)))


def _vertex(errors: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Where the parabola through the least error and its neighbours is least, in places."""
    inner = np.clip(best, 1, errors.shape[-1] - 2)[..., None]
    before, at, after = (
        np.take_along_axis(errors, inner + offset, axis=-1)[..., 0] for offset in (-1, 0, 1)
    )
    bend = before - 2 * at + after
    vertex = (before - after) / (2 * np.where(bend > 0, bend, np.inf))
    return np.where(inner[..., 0] == best, np.clip(vertex, -0.5, 0.5), 0)


def _aligned(counts: np.ndarray, exponent: np.ndarray, bins: LogBins) -> np.ndarray:
    """Histograms on the bins ``LogBins(-_OCTAVES, 0)`` of values over 2**exponent; float64.

    The bin in the middle takes all that is smaller.
    """
    width = _OCTAVES << bins.mantissa_bits
    first = (exponent - _OCTAVES - bins.min_exponent) << bins.mantissa_bits
    place = first[:, None] + np.arange(width)
    known = (place >= 0) & (place < bins.per_sign)
    place = np.clip(place, 0, bins.per_sign - 1) + 1
    below, above = (
        np.where(known, np.take_along_axis(counts, bins.per_sign + side * place, axis=1), 0)
        for side in (-1, 1)
    )
    middle = counts.sum(axis=1) - below.sum(axis=1) - above.sum(axis=1)
    return np.concatenate([below[:, ::-1], middle[:, None], above], axis=1).astype(float)


def sqnr_db(power: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Ratio of mean squares of signal and quantisation error, in dB; infinite without error.

    >>> sqnr_db(np.array([1.0]), np.array([0.01]))
    array([20.])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return 10 * np.log10(power / error)

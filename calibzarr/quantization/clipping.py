"""Ways to choose the clipping range of every histogram at once: NumPy in, NumPy out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from calibzarr.errors import OptionError
from calibzarr.quantization.expected_error import (
    BITS,
    BLOCK,
    OCTAVES,
    Aligned,
    Levels,
    Rows,
    aligned_edges,
    bin_errors,
    levels,
)
from calibzarr.statistics.histogram import LogBins, quantile

METHODS = ("mse", "lp", "percentile", "kl")
LP_EXPONENT = 2.4
TAIL = 0.001  # share of the values that a percentile clips on either side

_PER_OCTAVE = 12  # thresholds that a search tries
_THRESHOLD_OCTAVES = 8
_THRESHOLDS = 2.0 ** (-np.arange(_PER_OCTAVE * _THRESHOLD_OCTAVES + 1) / _PER_OCTAVE)
_CLOSER = 2.0 ** (np.linspace(-1.5, 1.5, 13) / _PER_OCTAVE)
_SURPRISE, _RIVAL = 0.03, 1.1  # parts of the least error
_NEAR = 2 ** (1.5 / _PER_OCTAVE)  # a threshold so near to the greatest magnitude may be that

_LINEAR_BINS = 2048
_KL_THRESHOLDS = 96
_ROWS = 128  # histograms whose divergences are computed together


def clipping_range(
    method: str,
    counts: np.ndarray,
    bins: LogBins,
    value_min: np.ndarray,
    value_max: np.ndarray,
    bits: tuple[int, ...],
    symmetric: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Clipping ranges, never beyond the observed values.

    Args:
        method: ``mse`` or ``lp`` for the least expected error, squared or to the power of 2.4;
            ``percentile`` for the 0.1 and 99.9 percentiles; ``kl`` for the least divergence.
        counts: shape (..., bin), integer.
        bins: of the histograms.
        value_min: least value, shape (...), activation units.
        value_max: greatest value, shape (...), activation units.
        bits: numbers of bits that a range is wanted for.
        symmetric: whether the levels are.

    Returns:
        Lower and upper ends, each of shape (..., len(bits)), activation units.

    Raises:
        OptionError: if there is no such method.
    """
    if method not in METHODS:
        raise OptionError(f"clip must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "percentile":
        tails = quantile(counts, bins.low, bins.high, np.array([TAIL, 1 - TAIL]))
        low, high = (
            np.repeat(tails[..., [side]], len(bits), axis=-1) for side in range(tails.shape[-1])
        )
    elif method == "kl":
        reach = np.fmax(np.abs(value_min), np.abs(value_max))
        magnitudes = linear_magnitudes(counts, bins, reach)
        threshold = np.stack([kl_threshold(magnitudes, reach, own) for own in bits], axis=-1)
        low, high = -threshold, threshold
    else:
        p = LP_EXPONENT if method == "lp" else 2
        best = best_clipping(counts, bins, value_min, value_max, bits, symmetric, p)
        low, high = best.clip_min, best.clip_max
    observed = value_min[..., None], value_max[..., None]
    return np.clip(low, *observed), np.clip(high, *observed)


def linear_magnitudes(counts: np.ndarray, bins: LogBins, reach: np.ndarray) -> np.ndarray:
    """Histograms of magnitudes with 2048 equal bins, values spread evenly within a bin of before.

    Args:
        counts: shape (..., bin), integer.
        bins: of ``counts``.
        reach: greatest magnitude, shape (...), activation units.

    Returns:
        Shape (..., 2048), float64.
    """
    centre = bins.per_sign
    middle = counts[..., [centre]]
    folded = np.concatenate(
        [middle, counts[..., centre + 1 :] + counts[..., centre - 1 :: -1]], axis=-1
    )
    below = np.concatenate([np.zeros_like(middle), folded.cumsum(axis=-1)], axis=-1)
    edges = np.append(0, bins.high[centre:])  # the last is infinite
    wanted = np.nan_to_num(reach)[..., None] * np.linspace(0, 1, _LINEAR_BINS + 1)
    place = np.clip(np.searchsorted(edges, wanted, side="right") - 1, 0, len(edges) - 2)
    width = np.where(np.isinf(edges[place + 1]), 1, edges[place + 1] - edges[place])
    part = np.clip((wanted - edges[place]) / width, 0, 1)
    inside = np.take_along_axis(folded, place, axis=-1)
    cumulative = np.take_along_axis(below, place, axis=-1) + part * inside
    cumulative[..., -1] = below[..., -1]  # whatever shares the bin of the greatest
    return np.diff(cumulative, axis=-1)


def kl_threshold(magnitudes: np.ndarray, reach: np.ndarray, bits: int) -> np.ndarray:
    """The threshold that loses least information, as TensorRT's entropy calibration finds it.

    The distribution up to a threshold, all that is beyond counted into its last bin, is compared
    with itself at ``2**(bits - 1)`` levels of magnitude by Kullback-Leibler divergence (Migacz,
    "8-bit inference with TensorRT", GTC 2017). 96 thresholds are tried.

    Args:
        magnitudes: of :func:`linear_magnitudes`, shape (..., 2048).
        reach: greatest magnitude, shape (...), activation units.
        bits: of the quantizer.

    Returns:
        Shape (...), activation units; NaN where nothing was counted.
    """
    num_levels = 2 ** (bits - 1)
    rows = magnitudes.reshape(-1, _LINEAR_BINS)
    first = max(num_levels, _LINEAR_BINS // _KL_THRESHOLDS)
    kept = np.unique(np.linspace(first, _LINEAR_BINS, _KL_THRESHOLDS).astype(int))
    divergence = np.empty((len(rows), len(kept)))
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        for index, number in enumerate(kept):
            divergence[part, index] = _divergence(rows[part], int(number), num_levels)
    threshold = kept[divergence.argmin(axis=1)] / _LINEAR_BINS * np.ravel(reach)
    threshold = np.where(rows.sum(axis=1) > 0, threshold, np.nan)
    return threshold.reshape(magnitudes.shape[:-1])


def _divergence(magnitudes: np.ndarray, number: int, num_levels: int) -> np.ndarray:
    """Divergence of the first ``number`` bins from their quantized selves, shape (row,)."""
    inside = magnitudes[:, :number]
    reference = inside.copy()
    reference[:, -1] += magnitudes[:, number:].sum(axis=1)
    starts = np.arange(num_levels) * number // num_levels
    sizes = np.diff(np.append(starts, number))
    filled = inside > 0
    level_mass = np.add.reduceat(inside, starts, axis=1)
    level_filled = np.maximum(np.add.reduceat(filled, starts, axis=1, dtype=np.int64), 1)
    candidate = np.repeat(level_mass / level_filled, sizes, axis=1) * filled
    reference = _smoothed(reference)
    return (reference * np.log(reference / _smoothed(candidate))).sum(axis=1)


def _smoothed(distribution: np.ndarray) -> np.ndarray:
    """A distribution of sum 1 without a zero, so that its divergence is finite."""
    total = np.maximum(distribution.sum(axis=1, keepdims=True), 1e-30)
    share = distribution / total + 1e-9
    return share / share.sum(axis=1, keepdims=True)


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
    threshold, whichever is nearer to 0. 97 thresholds are tried, twelve an octave; the best is
    refined between its neighbours, more finely where the error changes fast with it, and held
    against no clipping at all where it is near to that. Minimising the expected squared error
    over the range follows Banner et al. 2019 (arXiv 1810.05723), with the histogram in the place
    of their parametric densities; ``p`` of 2.4 is the Lp norm that Q-Diffusion's (arXiv
    2302.04304) code takes.

    Args:
        counts: shape (..., bin), integer.
        bins: of the histograms.
        value_min: least value, shape (...), activation units.
        value_max: greatest value, shape (...), activation units.
        bits: numbers of bits to search for.
        symmetric: as for :func:`levels`.
        p: exponent.

    Returns:
        Arrays of shape (..., len(bits)); NaN where nothing was counted.
    """
    rows = Rows.of(counts, bins, value_min, value_max)
    low, high, error = np.empty((3, len(rows.counts), len(bits)))
    least, greatest = np.minimum(rows.value_min, 0), np.maximum(rows.value_max, 0)
    mirrored = -least > greatest
    # Rows whose shorter ends are the same part of 2**exponent share the levels, but for the sign;
    # where both ends are the threshold, all rows do.
    place = np.zeros(len(mirrored), dtype=int)
    if not symmetric:
        with np.errstate(divide="ignore"):
            octaves = -np.log2(np.minimum(-least, greatest) / 2.0**rows.exponent)
        place = np.clip(np.floor(octaves * _PER_OCTAVE), 0, _PER_OCTAVE * OCTAVES).astype(int)
    both = _kernel(bins, -_THRESHOLDS, _THRESHOLDS, bits, symmetric, p)
    for own in np.unique(place):
        farther = _THRESHOLDS[:own]
        nearer = np.full(len(farther), 2.0 ** (-own / _PER_OCTAVE))
        one = _kernel(bins, -nearer, farther, bits, symmetric, p)
        for part, sign in _blocks(place == own, mirrored):
            aligned = rows.aligned(part)
            single = aligned.counts.astype(np.float32)
            tried = np.concatenate(
                [_products(single[:, ::sign], one), _products(single, both[own:])], axis=1
            )
            low[part], high[part], error[part] = _settled(
                aligned, tried, least[part], greatest[part], bits, symmetric, p
            )
    shape = (*counts.shape[:-1], len(bits))
    return Clipping(
        *(np.where(np.isnan(error), np.nan, array).reshape(shape) for array in (low, high, error))
    )


def _blocks(chosen: np.ndarray, mirrored: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Places of a few of the chosen rows at a time, with -1 for those that are mirrored, else 1."""
    for sign in (1, -1):
        members = np.flatnonzero(chosen & (mirrored == (sign < 0)))
        for first in range(0, len(members), BLOCK):
            yield members[first : first + BLOCK], sign


def _kernel(
    bins: LogBins,
    clip_min: np.ndarray,
    clip_max: np.ndarray,
    bits: tuple[int, ...],
    symmetric: bool,
    p: float,
) -> np.ndarray:
    """Errors of aligned bins with shared levels, shape (threshold, bits, bin), float32."""
    edges = aligned_edges(bins.mantissa_bits).astype(np.float32)
    kernel = np.empty((len(clip_min), len(bits), len(edges) - 1), dtype=np.float32)
    for index, number in enumerate(bits):  # a megabyte at once
        own = levels(clip_min, clip_max, np.asarray(number), symmetric)
        arrays = (own.step_size, own.lowest, own.highest)
        single = Levels(*(array.astype(np.float32) for array in arrays))
        kernel[:, index] = bin_errors(edges, single, p)
    return kernel


def _products(counts: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Sums over bins of counts times errors, shape (row, threshold, bits)."""
    flat = kernel.reshape(-1, kernel.shape[-1])
    return np.asarray((counts @ flat.T).reshape(len(counts), *kernel.shape[:-1]))


def _settled(
    aligned: Aligned,
    tried: np.ndarray,
    least: np.ndarray,
    greatest: np.ndarray,
    bits: tuple[int, ...],
    symmetric: bool,
    p: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends and errors of the best ranges, each of shape (row, bits).

    ``tried`` has the total errors of all thresholds on shared levels, shape (row, threshold,
    bits). Where a row's own levels err by another amount, or a threshold nearby is nearly as good,
    the error changes fast with it, as after a GELU, whose least values crowd at or between levels:
    there, and where it may be best not to clip, more thresholds are looked at.
    """
    best, number = tried.argmin(axis=1), np.array(bits)
    finer = _THRESHOLDS[best] * 2.0 ** (-_vertex(tried, best) / _PER_OCTAVE)
    reach = np.maximum(-least, greatest)[:, None]
    threshold = np.minimum(finer * aligned.scale[:, None], reach)
    low, high = np.maximum(-threshold, least[:, None]), np.minimum(threshold, greatest[:, None])
    error = aligned.errors(levels(low, high, number, symmetric), p)
    total = error * (aligned.counts.sum(axis=1) / aligned.scale**p)[:, None]
    promised = np.take_along_axis(tried, best[:, None], axis=1)[:, 0]
    surprising = np.abs(promised - total) > _SURPRISE * total
    look = surprising | _has_rival(tried, best) | (threshold > reach / _NEAR)
    places, columns = np.nonzero(look)
    if len(places):
        more = np.append(threshold[places, columns, None] * _CLOSER, reach[places], axis=1)
        ends = np.maximum(-more, least[places, None]), np.minimum(more, greatest[places, None])
        errors = aligned.at(places).errors(levels(*ends, number[columns, None], symmetric), p)
        chosen = errors.argmin(axis=1)[:, None]
        better = np.take_along_axis(errors, chosen, axis=1)[:, 0] < error[places, columns]
        places, columns, chosen = places[better], columns[better], chosen[better]
        for array, other in ((low, ends[0]), (high, ends[1]), (error, errors)):
            array[places, columns] = np.take_along_axis(other[better], chosen, axis=1)[:, 0]
    return low, high, error


def _has_rival(errors: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Whether there is another dip of the errors nearby, nearly as low, shape (row, bits)."""
    nearby = np.clip(best[:, None] + np.arange(-4, 5)[:, None], 0, errors.shape[1] - 1)
    around = np.take_along_axis(errors, nearby, axis=1)
    before, at, after = around[:, :-2], around[:, 1:-1], around[:, 2:]
    dips = (at < before) & (at < after) & (at < _RIVAL * around[:, 4:5])
    return np.asarray(dips.sum(axis=1) > 1)


def _vertex(errors: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Where the parabola through the least error and its neighbours is least, in places."""
    inner = np.clip(best, 1, errors.shape[1] - 2)[:, None]
    before, at, after = (
        np.take_along_axis(errors, inner + offset, axis=1)[:, 0] for offset in (-1, 0, 1)
    )
    bend = before - 2 * at + after
    vertex = (before - after) / (2 * np.where(bend > 0, bend, np.inf))
    return np.where(inner[:, 0] == best, np.clip(vertex, -0.5, 0.5), 0)

"""Ways to choose the clipping range of every histogram at once: NumPy in, NumPy out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from calibzarr.errors import Option, OptionError
from calibzarr.quantization.choices import CLIPS, Clip
from calibzarr.quantization.expected_error import bin_errors, expected_errors
from calibzarr.quantization.histograms import (
    BLOCK,
    OCTAVES,
    Histograms,
    finite_edges,
    shared_bins,
)
from calibzarr.quantization.levels import BITS, Levels, levels

LP_EXPONENT = 2.4

_PER_OCTAVE = 12  # thresholds that a search tries
_THRESHOLD_OCTAVES = 8
_THRESHOLDS = 2.0 ** (-np.arange(_PER_OCTAVE * _THRESHOLD_OCTAVES + 1) / _PER_OCTAVE)
_CLOSER = 2.0 ** (np.linspace(-1.5, 1.5, 13) / _PER_OCTAVE)
_SURPRISE, _RIVAL = 0.03, 1.1  # of the least error
_NEAR = 2 ** (1.5 / _PER_OCTAVE)  # a threshold so near to the greatest magnitude may be that


def clipping_range(
    clip: Clip, histograms: Histograms, bits: tuple[int, ...], *, symmetric: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Clipping ranges, never beyond the observed values.

    Args:
        clip: ``mse`` or ``lp`` for the least expected error, squared or to the power of 2.4;
            ``minmax`` for the observed extremes.
        histograms: shape (...).
        bits: numbers of bits that a range is wanted for.
        symmetric: whether the levels are.

    Returns:
        Lower and upper ends, each of shape (..., len(bits)), activation units.

    Raises:
        OptionError: if there is no such way.
    """
    if clip not in CLIPS:
        raise OptionError(Option("clip"), f" must be one of {', '.join(CLIPS)}, got {clip!r}")
    observed = histograms.value_min[..., None], histograms.value_max[..., None]
    if clip == "minmax":
        low, high = (np.repeat(end, len(bits), axis=-1) for end in observed)
    else:
        p = LP_EXPONENT if clip == "lp" else 2
        best = best_clipping(histograms, bits, symmetric=symmetric, p=p)
        low, high = best.clip_min, best.clip_max
    return np.clip(low, *observed), np.clip(high, *observed)


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

    def at(self, index: np.ndarray) -> "Clipping":
        """Those of one number of bits for each histogram, by its index; shape (...)."""
        return Clipping(
            *(
                np.take_along_axis(array, index[..., None], axis=-1)[..., 0]
                for array in (self.clip_min, self.clip_max, self.error)
            )
        )


@dataclass(frozen=True)
class _Quantizers:
    """What is searched for: the same for all rows.

    Attributes:
        bits: of the quantizers.
        symmetric: as for :func:`levels`.
        p: exponent of the error.
    """

    bits: tuple[int, ...]
    symmetric: bool
    p: float

    def kernel(self, mantissa_bits: int, clip_min: np.ndarray, clip_max: np.ndarray) -> np.ndarray:
        """Errors of shared bins with given levels, shape (threshold, bits, bin), float32."""
        edges = finite_edges(shared_bins(mantissa_bits)).astype(np.float32)
        kernel = np.empty((len(clip_min), len(self.bits), len(edges) - 1), dtype=np.float32)
        for index, bits in enumerate(self.bits):  # a megabyte at once
            double = levels(clip_min, clip_max, np.asarray(bits), symmetric=self.symmetric)
            arrays = (double.step_size, double.lowest, double.highest)
            single = Levels(*(array.astype(np.float32) for array in arrays))
            kernel[:, index] = bin_errors(edges, single, self.p)
        return kernel

    def errors(
        self, rows: Histograms, low: np.ndarray, high: np.ndarray, bits: np.ndarray
    ) -> np.ndarray:
        """Errors of normalized rows with ranges of shape (row, quantizer)."""
        quantizers = levels(low, high, bits, symmetric=self.symmetric)
        return expected_errors(rows.counts, rows.edges, quantizers, self.p)


def best_clipping(
    histograms: Histograms,
    bits: tuple[int, ...] = BITS,
    *,
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
        histograms: shape (...).
        bits: numbers of bits to search for.
        symmetric: as for :func:`levels`.
        p: exponent.

    Returns:
        Arrays of shape (..., len(bits)); NaN where nothing was counted.
    """
    rows, quantizers = histograms.flat, _Quantizers(bits, symmetric, p)
    mantissa_bits = histograms.bins.mantissa_bits
    low, high, error = np.empty((3, len(rows.counts), len(bits)))
    unit = 2.0**rows.exponent
    least = np.minimum(np.nan_to_num(rows.value_min.astype(np.float64)), 0) / unit
    greatest = np.maximum(np.nan_to_num(rows.value_max.astype(np.float64)), 0) / unit
    mirrored = -least > greatest
    # Rows whose shorter ends are the same share of the unit have the levels in common, but for
    # the sign; where both ends are the threshold, all rows do.
    shorter = np.zeros(len(mirrored), dtype=int)
    if not symmetric:
        with np.errstate(divide="ignore"):
            octaves = -np.log2(np.minimum(-least, greatest))
        shorter = np.clip(np.floor(octaves * _PER_OCTAVE), 0, _PER_OCTAVE * OCTAVES).astype(int)
    both = quantizers.kernel(mantissa_bits, -_THRESHOLDS, _THRESHOLDS)
    for number in np.unique(shorter):
        farther = _THRESHOLDS[:number]
        nearer = np.full(len(farther), 2.0 ** (-number / _PER_OCTAVE))
        one = quantizers.kernel(mantissa_bits, -nearer, farther)
        for block, sign in _blocks(shorter == number, mirrored):
            shared = rows.at(block).normalized()[0]
            single = shared.counts.astype(np.float32)
            tried = np.concatenate(
                [_products(single[:, ::sign], one), _products(single, both[number:])], axis=1
            )
            low[block], high[block], error[block] = _refined(
                shared, tried, least[block], greatest[block], quantizers
            )
    shape, unit = (*histograms.counts.shape[:-1], len(bits)), unit[:, None]
    return Clipping(
        *(
            np.where(np.isnan(error), np.nan, array).reshape(shape)
            for array in (low * unit, high * unit, error * unit**p)
        )
    )


def _blocks(chosen: np.ndarray, mirrored: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Indices of a few of the chosen rows at a time, with -1 for mirrored ones, else 1."""
    for sign in (1, -1):
        members = np.flatnonzero(chosen & (mirrored == (sign < 0)))
        for first in range(0, len(members), BLOCK):
            yield members[first : first + BLOCK], sign


def _products(counts: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Sums over bins of counts times errors, shape (row, threshold, bits)."""
    flat = kernel.reshape(-1, kernel.shape[-1])
    return np.asarray((counts @ flat.T).reshape(len(counts), *kernel.shape[:-1]))


def _refined(
    rows: Histograms,
    tried: np.ndarray,
    least: np.ndarray,
    greatest: np.ndarray,
    quantizers: _Quantizers,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends and errors of the best ranges of normalized rows, each of shape (row, bits).

    ``tried`` has the total errors of all thresholds on shared levels, shape (row, threshold,
    bits). Where a row's levels err by another amount, or a threshold nearby is nearly as good,
    the error changes fast with it, as after a GELU, whose least values crowd at or between levels:
    there, and where it may be best not to clip, more thresholds are looked at.
    """
    best, bits = tried.argmin(axis=1), np.array(quantizers.bits)
    finer = _THRESHOLDS[best] * 2.0 ** (-_vertex(tried, best) / _PER_OCTAVE)
    reach = np.maximum(-least, greatest)[:, None]
    threshold = np.minimum(finer, reach)
    low, high = np.maximum(-threshold, least[:, None]), np.minimum(threshold, greatest[:, None])
    error = quantizers.errors(rows, low, high, bits)
    total = error * rows.counts.sum(axis=1)[:, None]
    promised = np.take_along_axis(tried, best[:, None], axis=1)[:, 0]
    surprising = np.abs(promised - total) > _SURPRISE * total
    look = surprising | _has_rival(tried, best) | (threshold > reach / _NEAR)
    index, column = np.nonzero(look)
    if len(index):
        more = np.append(threshold[index, column, None] * _CLOSER, reach[index], axis=1)
        ends = np.maximum(-more, least[index, None]), np.minimum(more, greatest[index, None])
        errors = quantizers.errors(rows.at(index), *ends, bits[column, None])
        chosen = errors.argmin(axis=1)[:, None]
        better = np.take_along_axis(errors, chosen, axis=1)[:, 0] < error[index, column]
        index, column, chosen = index[better], column[better], chosen[better]
        for array, other in ((low, ends[0]), (high, ends[1]), (error, errors)):
            array[index, column] = np.take_along_axis(other[better], chosen, axis=1)[:, 0]
    return low, high, error


def _has_rival(errors: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Whether there is another dip of the errors nearby, nearly as low, shape (row, bits)."""
    nearby = np.clip(best[:, None] + np.arange(-4, 5)[:, None], 0, errors.shape[1] - 1)
    around = np.take_along_axis(errors, nearby, axis=1)
    before, at, after = around[:, :-2], around[:, 1:-1], around[:, 2:]
    dips = (at < before) & (at < after) & (at < _RIVAL * around[:, 4:5])
    return np.asarray(dips.sum(axis=1) > 1)


def _vertex(errors: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Where the parabola through the least error and its neighbours is least, in positions."""
    inner = np.clip(best, 1, errors.shape[1] - 2)[:, None]
    before, at, after = (
        np.take_along_axis(errors, inner + offset, axis=1)[:, 0] for offset in (-1, 0, 1)
    )
    bend = before - 2 * at + after
    vertex = (before - after) / (2 * np.where(bend > 0, bend, np.inf))
    return np.where(inner[:, 0] == best, np.clip(vertex, -0.5, 0.5), 0)

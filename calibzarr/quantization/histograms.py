"""Histograms of any number of rows, and what is known exactly of their values beside."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from calibzarr.quantization.expected_error import expected_errors, mean_power
from calibzarr.quantization.levels import Levels, levels
from calibzarr.statistics.histogram import LogBins, fraction_below, quantile, representative

TAILS = (0.01, 0.99)
BLOCK = 64  # rows that are looked at together
OCTAVES = 16  # of magnitudes below a row's greatest that are told apart

Index = int | slice | list[int] | np.ndarray


@dataclass(frozen=True)
class Histograms:
    """Counts of values, their extremes and sums: of layers, of layers at steps or in phases.

    Attributes:
        bins: that were counted in.
        counts: shape (..., bin).
        value_min: least value, shape (...), activation units; NaN where nothing was observed.
        value_max: greatest value, likewise.
        value_sum: sum of values, shape (...), activation units.
        square_sum: sum of squares, shape (...), activation units squared.
    """

    bins: LogBins
    counts: np.ndarray
    value_min: np.ndarray
    value_max: np.ndarray
    value_sum: np.ndarray
    square_sum: np.ndarray

    @classmethod
    def of_counts(
        cls, counts: np.ndarray, bins: LogBins, value_min: np.ndarray, value_max: np.ndarray
    ) -> "Histograms":
        """With the sums that the counts give: each within the width of a bin."""
        return cls(
            bins,
            counts,
            np.asarray(value_min),
            np.asarray(value_max),
            np.asarray(counts @ representative(bins.low, bins.high)),
            np.nan_to_num(mean_power(counts, bins)) * counts.sum(axis=-1),
        )

    def _with(self, change: Callable[[np.ndarray], np.ndarray]) -> "Histograms":
        arrays = (self.counts, self.value_min, self.value_max, self.value_sum, self.square_sum)
        return Histograms(self.bins, *map(change, arrays))

    def at(self, index: Index) -> "Histograms":
        """Some of the rows, by their first axis."""
        return self._with(lambda array: np.asarray(array[index]))

    @cached_property
    def flat(self) -> "Histograms":
        """The same rows on one axis: shape (row,)."""
        axes = np.ndim(self.value_min)
        return self._with(lambda array: array.reshape(-1, *array.shape[axes:]))

    def over(self, phases: Iterable[slice]) -> "Histograms":
        """The same over ranges of the second axis: shape (layer, phase); a range may be empty."""
        phases = list(phases)

        def reduced(values: np.ndarray, reduce: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
            return np.stack([reduce(values[:, steps]) for steps in phases], axis=1)

        return Histograms(
            self.bins,
            reduced(self.counts, _summed),
            reduced(self.value_min, _least),
            reduced(self.value_max, _greatest),
            reduced(self.value_sum, _summed),
            reduced(self.square_sum, _summed),
        )

    def with_more(self, others: "Histograms", rows: np.ndarray) -> "Histograms":
        """The same with more values of some rows.

        Args:
            others: values of these rows, in the same bins, shape (row, ...).
            rows: indices along the first axis.
        """

        def combined(values: np.ndarray, more: np.ndarray, combine: np.ufunc) -> np.ndarray:
            result = values.copy()
            result[rows] = combine(values[rows], more)
            return result

        return Histograms(
            self.bins,
            combined(self.counts, others.counts, np.add),
            combined(self.value_min, others.value_min, np.fmin),
            combined(self.value_max, others.value_max, np.fmax),
            combined(self.value_sum, others.value_sum, np.add),
            combined(self.square_sum, others.square_sum, np.add),
        )

    @cached_property
    def overall(self) -> "Histograms":
        """The same over the whole second axis: shape (layer,)."""
        return self.over([slice(None)])._with(lambda array: array[:, 0])

    @cached_property
    def number(self) -> np.ndarray:
        """How many values there are, shape (...)."""
        return np.asarray(self.counts.sum(axis=-1))

    @cached_property
    def power(self) -> np.ndarray:
        """Mean square, shape (...); NaN where nothing was observed."""
        return self._mean(self.square_sum)

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean, shape (...), activation units; NaN where nothing was observed."""
        return self._mean(self.value_sum)

    @cached_property
    def std(self) -> np.ndarray:
        """Standard deviation, likewise."""
        return np.asarray(np.sqrt(np.clip(self.power - self.mean**2, 0, None)))

    def _mean(self, total: np.ndarray) -> np.ndarray:
        return np.where(self.number > 0, total / np.maximum(self.number, 1), np.nan)

    @cached_property
    def tails(self) -> tuple[np.ndarray, np.ndarray]:
        """1st and 99th percentile, shapes (...), activation units."""
        low, high = np.moveaxis(self.quantile(np.array(TAILS)), -1, 0)
        return low, high

    def quantile(self, q: np.ndarray) -> np.ndarray:
        """Quantiles: shape (..., quantile), activation units."""
        values = quantile(self.counts, self.bins.low, self.bins.high, q)
        return np.asarray(np.clip(values, self.value_min[..., None], self.value_max[..., None]))

    def fraction_below(self, value: np.ndarray) -> np.ndarray:
        """Share of the values that is less than a value of each row, shape (...)."""
        return fraction_below(self.counts, self.bins.low, self.bins.high, value)

    @cached_property
    def exponent(self) -> np.ndarray:
        """Magnitudes are up to 2**exponent, within the bins; shape (...)."""
        reach = np.nan_to_num(np.fmax(np.abs(self.value_min), np.abs(self.value_max)))
        exponent = np.frexp(reach.astype(np.float64))[1]
        return np.asarray(np.clip(exponent, self.bins.min_exponent + 1, self.bins.max_exponent))

    def error(
        self,
        clip_min: np.ndarray,
        clip_max: np.ndarray,
        bits: np.ndarray,
        *,
        symmetric: bool = False,
        p: float = 2,
    ) -> np.ndarray:
        """Expected error of quantizing the values, rounding and clipping together.

        Args:
            clip_min: shape (...), or (..., quantizer) for several of each, activation units.
            clip_max: likewise.
            bits: likewise, or what broadcasts against it.
            symmetric: as for :func:`levels`.
            p: exponent; 2 for the mean squared error.

        Returns:
            Mean of ``|v - Q(v)|**p``, of the shape of the range; NaN where nothing was counted.
        """
        shape: tuple[int, ...] = np.broadcast_shapes(
            *(np.shape(array) for array in (clip_min, clip_max, bits))
        )
        if len(shape) < self.counts.ndim:  # one range for each row
            shape = np.broadcast_shapes(shape, self.counts.shape[:-1])
        rows = self.flat
        ends = (
            np.broadcast_to(array, shape).reshape(len(rows.counts), -1)
            for array in (clip_min, clip_max, bits)
        )
        quantizers = levels(*ends, symmetric=symmetric)
        result = np.empty(quantizers.step_size.shape)
        for first in range(0, len(result), BLOCK):
            block = slice(first, first + BLOCK)
            result[block] = rows.at(block).errors(quantizers.at(block), p)
        return result.reshape(shape)

    def errors(self, quantizers: Levels, p: float) -> np.ndarray:
        """Expected errors of a few rows, with quantizers of shape (row, quantizer), likewise."""
        shared, unit = self.normalized()
        unit = unit[:, None]
        error = expected_errors(shared.counts, shared.edges, quantizers.over(unit), p)
        return np.asarray(error * unit**p)

    def normalized(self) -> tuple["Histograms", np.ndarray]:
        """A few rows over powers of two, on bins that all share, and these powers.

        Every row then has its greatest magnitude from 1/2 to 1. Values beyond the bins stay
        beyond them; the bin in the middle takes all that is smaller. What nothing is known of
        has extremes of 0.
        """
        bins = self.bins
        first = (self.exponent - OCTAVES - bins.min_exponent) << bins.mantissa_bits
        position = first[:, None] + np.arange(OCTAVES << bins.mantissa_bits)
        known = (position >= 0) & (position < bins.per_sign)
        position = np.clip(position, 0, bins.per_sign - 1) + 1
        below, above = (
            np.where(
                known,
                np.take_along_axis(self.counts, bins.per_sign + sign * position, axis=1),
                0,
            )
            for sign in (-1, 1)
        )
        middle = self.counts.sum(axis=1) - below.sum(axis=1) - above.sum(axis=1)
        counts = np.concatenate([below[:, ::-1], middle[:, None], above], axis=1)
        unit = 2.0**self.exponent
        return Histograms(
            shared_bins(bins.mantissa_bits),
            counts.astype(np.float64),
            np.nan_to_num(self.value_min.astype(np.float64)) / unit,
            np.nan_to_num(self.value_max.astype(np.float64)) / unit,
            self.value_sum / unit,
            self.square_sum / unit**2,
        ), unit

    @cached_property
    def edges(self) -> np.ndarray:
        """Finite edges of the bins of a few rows, none beyond the extremes: (row, bin + 1)."""
        low, high = self.value_min[:, None], self.value_max[:, None]
        edges = np.clip(finite_edges(self.bins), low, high)
        edges[:, :1], edges[:, -1:] = np.minimum(edges[:, :1], low), np.maximum(edges[:, -1:], high)
        return np.asarray(edges)


def _summed(values: np.ndarray) -> np.ndarray:
    return np.asarray(values.sum(axis=1))


def _least(values: np.ndarray) -> np.ndarray:
    """NaN where there is nothing."""
    return np.asarray(np.fmin.reduce(values, axis=1, initial=np.nan, dtype=np.float64))


def _greatest(values: np.ndarray) -> np.ndarray:
    """NaN where there is nothing."""
    return np.asarray(np.fmax.reduce(values, axis=1, initial=np.nan, dtype=np.float64))


@cache
def shared_bins(mantissa_bits: int) -> LogBins:
    """Bins of magnitudes up to 1."""
    return LogBins(-OCTAVES, 0, mantissa_bits)


@cache
def finite_edges(bins: LogBins) -> np.ndarray:
    """Edges of bins, the outermost finite, shape (bin + 1,)."""
    reach = 2.0**bins.max_exponent
    return np.concatenate([[-reach], bins.high[:-1], [reach]])

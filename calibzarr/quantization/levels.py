"""Levels of uniform quantizers: NumPy in, NumPy out; imports nothing of ours."""

from dataclasses import dataclass

import numpy as np

BITS = (2, 3, 4, 5, 6, 7, 8)


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

    def at(self, index: slice | np.ndarray | tuple[slice | int, ...]) -> "Levels":
        """Some of the quantizers."""
        return Levels(self.step_size[index], self.lowest[index], self.highest[index])

    def over(self, unit: np.ndarray) -> "Levels":
        """The same levels where values are divided by a unit."""
        return Levels(self.step_size / unit, self.lowest, self.highest)

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """The nearest level of each value."""
        level = np.clip(np.rint(values / self.step_size), self.lowest, self.highest)
        return np.asarray(self.step_size * level)


def levels(
    clip_min: np.ndarray, clip_max: np.ndarray, bits: np.ndarray, *, symmetric: bool = False
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


def sqnr_db(power: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Ratio of mean squares of signal and quantization error, in dB; infinite without error.

    >>> sqnr_db(np.array([1.0]), np.array([0.01]))
    array([20.])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(10 * np.log10(power / error))

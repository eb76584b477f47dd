"""Errors of states and of outputs over the power of the reference's, by step."""

from dataclasses import dataclass

import numpy as np

from calibzarr.comparison import figures
from calibzarr.comparison.figures import Figure


@dataclass(frozen=True)
class ErrorByStep:
    """Squared error over the reference's power, both summed over images, at some steps.

    Attributes:
        step: their indices, shape (step,).
        sigma: their noise levels.
        relative_error: shape (step,).
        low: lower end of its interval; NaN from one image alone.
        high: upper end.
    """

    step: np.ndarray
    sigma: np.ndarray
    relative_error: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def sqnr_db(self) -> np.ndarray:
        """The same in dB: greater is better, infinite is equal."""
        return figures.decibels(self.relative_error)

    def figure(self, position: int) -> Figure:
        """The SQNR at one of the steps, dB."""
        ends = figures.decibels(np.array([self.high[position], self.low[position]]))
        return Figure(float(self.sqnr_db[position]), *map(float, ends))


def squares(values: np.ndarray, kept: int = 1) -> np.ndarray:
    """Sums of squares over all but the first ``kept`` axes, float64."""
    return np.asarray(np.square(values, dtype=np.float64).sum(axis=tuple(range(kept, values.ndim))))


def by_step(
    step: np.ndarray, sigma: np.ndarray, error: np.ndarray, power: np.ndarray
) -> ErrorByStep:
    """Relative errors with their intervals.

    Args:
        step: indices of the steps.
        sigma: their noise levels.
        error: sum of squared differences, shape (image, step).
        power: sum of squares of the reference's, likewise.
    """
    ends = np.full((2, len(step)), np.nan)
    if len(error) > 1:
        ends = np.array(figures.interval(figures.ratio_samples(error, power)))
    return ErrorByStep(step, sigma, error.sum(axis=0) / power.sum(axis=0), *ends)

"""From sums of gradient times quantization error to what each layer costs: NumPy in, NumPy out.

For a random probe u of the guided output v, the gradient g of <u, v> at a layer and the layer's
quantization error e give d = sum g e. To first order, the mean of d**2 over probes is the squared
error of v when this layer alone is quantized so (Hutchinson's estimator, Communications in
Statistics 19, 1990, for the norm of the error that a Jacobian makes of e).
"""

from dataclasses import dataclass

import numpy as np

from calibzarr.statistics.steps import phases_of_calls

_DECIBELS = 10 / np.log(10)  # of a small relative change


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing each layer alone does to the guided output.

    Attributes:
        value: squared error over the output's power, shape (layer, step, quantizer).
        error_db: standard error of ``value``, from its samples, of the same shape, dB; 0 where
            the value is 0, NaN where there are fewer than two samples.
    """

    value: np.ndarray
    error_db: np.ndarray


def sensitivity(products: np.ndarray, power: np.ndarray) -> Sensitivity:
    """Sensitivities from signed products: a ratio of means.

    Args:
        products: shape (layer, step, quantizer, image, probe); NaN where not measured.
        power: sum of squares of the guided output, shape (step, image).
    """
    samples = np.square(products.astype(np.float64)).reshape(*products.shape[:3], -1)
    known = ~np.isnan(samples)
    count = known.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):  # what no quantizer does is NaN
        mean = np.where(known, samples, 0).sum(axis=-1) / count
        squares = np.where(known, np.square(samples - mean[..., None]), 0).sum(axis=-1)
        relative = np.sqrt(squares / (count - 1) / count) / mean
    value = mean / np.nanmean(power, axis=1)[:, None]
    error_db = np.where(mean == 0, 0.0, np.where(count > 1, _DECIBELS * relative, np.nan))
    return Sensitivity(value.astype(np.float32), error_db.astype(np.float32))


def phase_of_calls(num_steps: int, calls: np.ndarray) -> np.ndarray:
    """Of each call, the position of its phase among those that have calls, of the same shape."""
    ends = [phase.stop for phase in phases_of_calls(num_steps).values()]
    return np.asarray(np.searchsorted(ends, calls, side="right"))


def nearest_steps(num_steps: int, steps: np.ndarray) -> np.ndarray:
    """For each call, the nearest measured one of the same phase, of two as near the earlier.

    Args:
        num_steps: calls of a sampling.
        steps: rising indices of the measured calls, shape (step,).

    Returns:
        Shape (call,), positions in ``steps``; -1 in a phase without a measured call.
    """
    calls = np.arange(num_steps)
    distance = np.abs(calls[:, None] - steps).astype(float)
    phase_of_each = phase_of_calls(num_steps, calls)[:, None]
    distance[phase_of_each != phase_of_calls(num_steps, steps)] = np.inf
    nearest = distance.argmin(axis=1)
    return np.where(np.isinf(distance.min(axis=1)), -1, nearest)


def counted_at_nearest(of_calls: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """A quantity of every call, summed by phase over those that a measured one stands for.

    Args:
        of_calls: such as how far each call goes in sigma, shape (call,).
        steps: rising indices of the measured calls, shape (step,).

    Returns:
        Shape (phase, step), of the phases that have calls; 0 in one without a measured call.
    """
    nearest = nearest_steps(len(of_calls), steps)
    known = np.flatnonzero(nearest >= 0)
    counted = np.zeros((len(phases_of_calls(len(of_calls))), len(steps)))
    np.add.at(counted, (phase_of_calls(len(of_calls), known), nearest[known]), of_calls[known])
    return counted


def over_steps(found: Sensitivity, weights: np.ndarray) -> Sensitivity:
    """A weighted sum over steps, whose samples are independent.

    Args:
        found: shapes (layer, step, quantizer).
        weights: shape (step,).

    Returns:
        Shapes (layer, quantizer).
    """
    weighted = found.value * weights[:, None]
    total = weighted.sum(axis=1)
    spread = np.sqrt(np.square(weighted * found.error_db).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return Sensitivity(total, np.where(total == 0, 0, spread / total))


def amplification(num_steps: int, measured: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What an error made at each call is worth at the end, from some calls.

    Args:
        num_steps: calls of a sampling.
        measured: rising indices of calls, shape (measured,).
        values: share of the error's energy that is left at the end, shape (measured,).

    Returns:
        Shape (step,), with NaN at the final state: square roots are linear between the measured
        calls, and the last call's is 1.
    """
    before = measured < num_steps - 1
    calls = np.append(measured[before], num_steps - 1)
    roots = np.append(np.sqrt(values[before]), 1.0)
    curve = np.square(np.interp(np.arange(num_steps), calls, roots))
    return np.append(curve, np.nan).astype(np.float32)

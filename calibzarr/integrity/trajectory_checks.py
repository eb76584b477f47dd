"""What the states of a trajectory must satisfy, whatever model made them: NumPy in, NumPy out."""

from collections.abc import Sequence

import numpy as np

from calibzarr.models.entry import Noise, ScheduleFormula
from calibzarr.statistics.steps import falls_to_zero

MAX_TURN = 0.95
"""Bound of :func:`turns`; see ``stores/README.md``."""

_MIN_STEPS, _STEPS_PER_GUIDANCE = 4, 5
_UNKNOWN_GUIDANCE = 10.0  # as much as is usual

_SIGMA_TOLERANCE = 1e-5
_PREFIX = 16  # values of a noise that tell its seed


def turns_are_bounded(num_steps: int, cfg_weight: object) -> bool:
    """Whether a true trajectory keeps the bound of :func:`turns`.

    Guidance turns it back where the steps are few: five for each unit of its weight are enough.
    """
    guidance = cfg_weight if isinstance(cfg_weight, int | float) else _UNKNOWN_GUIDANCE
    return num_steps >= max(_MIN_STEPS, _STEPS_PER_GUIDANCE * guidance)


def first_state(
    noise: Noise, seed: int, shape: tuple[int, ...], sigma: float, dtype: np.dtype
) -> np.ndarray:
    """The first state of an image: noise at the first sigma.

    Args:
        noise: how it is drawn.
        seed: of the image.
        shape: (channel, height, width).
        sigma: the first noise level.
        dtype: that it is stored in.
    """
    return (np.float32(sigma) * noise.draw(seed, shape)).astype(dtype)


def is_noise_of(state: np.ndarray, noise: Noise, seed: int, sigma: float) -> bool:
    """Whether a stored first state is the noise of a seed, but for its last bit.

    Args:
        state: shape (channel, height, width).
        noise: how it is drawn.
        seed: of the image.
        sigma: the first noise level.
    """
    expected = first_state(noise, seed, state.shape, sigma, state.dtype).astype(np.float32)
    error = np.abs(state - expected).max()
    return bool(error <= np.finfo(state.dtype).eps * np.abs(expected).max())


def seed_of_noise(
    state: np.ndarray, noise: Noise, sigma: float, candidates: np.ndarray
) -> int | None:
    """The first of the candidates whose noise a state is, or None.

    Args:
        state: shape (channel, height, width).
        noise: how it is drawn.
        sigma: the first noise level.
        candidates: seeds.
    """
    beginning = state.reshape(-1)[None, :_PREFIX]
    for seed in dict.fromkeys(candidates.tolist()):
        if noise.sequential and not is_noise_of(beginning, noise, seed, sigma):
            continue
        if is_noise_of(state, noise, seed, sigma):
            return int(seed)
    return None


def turns(states: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """How much the direction of a trajectory turns at each state between its two ends.

    Neighbouring states imply a direction ``d_k = (x_{k+1} - x_k) / (sigma_{k+1} - sigma_k)``,
    which is ``(x_k - denoised_k) / sigma_k``. The turn ``|d_k - d_{k-1}| / (|d_k| + |d_{k-1}|)`` is
    0 on a straight line and 1 where the trajectory goes back: 0.95 is a state that is off by 3
    times the way to its neighbours.

    Args:
        states: shape (step, channel, height, width), finite.
        sigma: shape (step,).

    Returns:
        Shape (step - 2,).
    """
    steps = np.diff(sigma.astype(np.float64))
    squares, products = np.zeros(len(steps)), np.zeros(len(steps) - 1)
    with np.errstate(over="ignore", invalid="ignore"):
        for channel in states.swapaxes(0, 1):  # at a time: memory holds no second trajectory
            ways = np.diff(channel.astype(np.float32, copy=False).reshape(len(states), -1), axis=0)
            squares += np.einsum("kv,kv->k", ways, ways) / steps**2
            products += np.einsum("kv,kv->k", ways[1:], ways[:-1]) / (steps[1:] * steps[:-1])
        lengths = np.sqrt(squares[1:]) + np.sqrt(squares[:-1])
        differences = (squares[1:] + squares[:-1] - 2 * products).clip(min=0)
        result = np.sqrt(differences) / np.where(lengths > 0, lengths, 1)
    return np.where(np.isfinite(result), result, 1.0)  # too large for float32: no way at all


def schedule_errors(
    sigma: np.ndarray, timestep: np.ndarray | None, formulas: Sequence[ScheduleFormula]
) -> list[str]:
    """What is wrong with noise levels, in words.

    Args:
        sigma: shape (step,).
        timestep: shape (step,); None where old files may have said otherwise.
        formulas: that they may follow; of several, one is enough. None if they are not known.
    """
    errors = []
    if not falls_to_zero(sigma):
        errors.append("sigma does not fall to 0")
    if not formulas:
        return errors
    if timestep is not None:
        expected = formulas[0].timestep(sigma)
        error = np.abs(timestep - expected)
        if not error.max() <= _SIGMA_TOLERANCE * np.abs(expected).max():
            step = error.argmax()
            errors.append(f"timestep {step} is {timestep[step]:g}, not {expected[step]:g}")
    error = np.abs(sigma - np.stack([formula.sigma(len(sigma) - 1) for formula in formulas]))
    best = error.max(axis=1).argmin()
    if not error[best].max() <= _SIGMA_TOLERANCE:
        step = error[best].argmax()
        errors.append(f"sigma {step} is {sigma[step]:g}, which is not {formulas[best].name}'s")
    return errors

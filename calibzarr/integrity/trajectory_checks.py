"""What the states of a trajectory must satisfy, whatever model made them: NumPy in, NumPy out."""

import re

import numpy as np

MAX_TURN = 0.95
"""Bound of :func:`turns`; see ``stores/README.md``."""

_MIN_STEPS, _STEPS_PER_GUIDANCE = 4, 5
_UNKNOWN_GUIDANCE = 10.0  # as much as is usual

_SAMPLER = re.compile(r"euler\(shift=([0-9.e+-]+)\)")
_DISCRETE_STEPS = 1000  # timesteps that the models were trained with
_SIGMA_TOLERANCE = 1e-5
_PREFIX = 16  # values of a noise that tell its seed


def turns_are_bounded(num_steps: int, cfg_weight: object) -> bool:
    """Whether a true trajectory keeps the bound of :func:`turns`.

    Guidance turns it back where the steps are few: five for each unit of its weight are enough.
    """
    guidance = cfg_weight if isinstance(cfg_weight, int | float) else _UNKNOWN_GUIDANCE
    return num_steps >= max(_MIN_STEPS, _STEPS_PER_GUIDANCE * guidance)


def first_state(seed: int, shape: tuple[int, ...], sigma: float, dtype: np.dtype) -> np.ndarray:
    """The first state of an image: noise at the first sigma.

    Args:
        seed: of the image.
        shape: (channel, height, width).
        sigma: the first noise level.
        dtype: that it is stored in.
    """
    noise = np.random.RandomState(seed).randn(*shape).astype(np.float32)
    return (np.float32(sigma) * noise).astype(dtype)


def is_noise_of(state: np.ndarray, seed: int, sigma: float) -> bool:
    """Whether a stored first state is the noise of a seed, but for its last bit.

    Args:
        state: shape (channel, height, width).
        seed: of the image.
        sigma: the first noise level.
    """
    expected = first_state(seed, state.shape, sigma, state.dtype).astype(np.float32)
    error = np.abs(state - expected).max()
    return bool(error <= np.finfo(state.dtype).eps * np.abs(expected).max())


def seed_of_noise(state: np.ndarray, sigma: float, candidates: np.ndarray) -> int | None:
    """The first of the candidates whose noise a state is, or None.

    Args:
        state: shape (channel, height, width).
        sigma: the first noise level.
        candidates: seeds.
    """
    for seed in dict.fromkeys(candidates.tolist()):
        beginning = state.reshape(-1)[None, :_PREFIX]  # RandomState draws value by value
        if is_noise_of(beginning, seed, sigma) and is_noise_of(state, seed, sigma):
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
    wide = states.reshape(len(states), -1).astype(np.float32, copy=False)
    ways, steps = np.diff(wide, axis=0), np.diff(sigma.astype(np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("kv,kv->k", ways, ways) / steps**2
        products = np.einsum("kv,kv->k", ways[1:], ways[:-1]) / (steps[1:] * steps[:-1])
        lengths = np.sqrt(squares[1:]) + np.sqrt(squares[:-1])
        differences = (squares[1:] + squares[:-1] - 2 * products).clip(min=0)
        result = np.sqrt(differences) / np.where(lengths > 0, lengths, 1)
    return np.where(np.isfinite(result), result, 1.0)  # too large for float32: no way at all


def schedule_errors(sigma: np.ndarray, timestep: np.ndarray | None, sampler: object) -> list[str]:
    """What is wrong with noise levels, in words.

    Args:
        sigma: shape (step,).
        timestep: shape (step,); None where old files may have said otherwise.
        sampler: the manifest's; levels of ``euler(shift=S)`` are compared with its formula.
    """
    errors = []
    if not (np.isfinite(sigma).all() and sigma[-1] == 0 and (np.diff(sigma) < 0).all()):
        errors.append("sigma does not fall to 0")
    if timestep is not None:
        error = np.abs(timestep - 1000 * sigma.astype(np.float64))
        if not error.max() <= 1000 * _SIGMA_TOLERANCE:
            step = error.argmax()
            errors.append(f"timestep {step} is {timestep[step]:g}, not {1000 * sigma[step]:g}")
    match = _SAMPLER.fullmatch(str(sampler))
    if match:
        expected = np.stack(shifted_schedules(len(sigma) - 1, float(match[1])))
        error = np.abs(sigma - expected)
        nearest = error[error.max(axis=1).argmin()]
        if not nearest.max() <= _SIGMA_TOLERANCE:
            step = nearest.argmax()
            errors.append(f"sigma {step} is {sigma[step]:g}, which is not {sampler}'s")
    return errors


def shifted_schedules(num_steps: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Noise levels of Stable Diffusion 3, and of FLUX, in DiffusionKit.

    ``sigma(t) = shift t / (1 + (shift - 1) t)`` (Esser et al. 2024, arXiv 2403.03206, equation 23)
    of evenly spaced times: of SD3's ``num_steps`` from 1 to the first discrete step's sigma, and a
    last 0; of FLUX' ``num_steps + 1`` from 1 to 0.

    Returns:
        Two arrays of shape (step,).
    """

    def level(time: np.ndarray) -> np.ndarray:
        return shift * time / (1 + (shift - 1) * time)

    least = level(np.array(1 / _DISCRETE_STEPS))
    stable = np.append(level(np.linspace(1, least, num_steps)), 0)
    return stable, level(np.linspace(1, 0, num_steps + 1))

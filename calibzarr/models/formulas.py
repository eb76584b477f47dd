"""DiffusionKit's noise, noise levels and sizes, without DiffusionKit: NumPy in, NumPy out."""

import re

import numpy as np

from calibzarr.models.entry import Noise, ScheduleFormula

PIXELS_PER_LATENT = 8  # of the models' variational autoencoders
MAX_IMAGE_SIZE_OF_TINY = 128  # pixels that its position embedding covers

_DISCRETE_STEPS = 1000  # timesteps that the models were trained with
_SAMPLER = re.compile(r"euler\(shift=([0-9.e+-]+)\)")


def _draw(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    # What DiffusionKit's np.random.seed(seed) would draw; NumPy's global generator stays.
    return np.random.RandomState(seed).randn(*shape).astype(np.float32)


NOISE = Noise("numpy.random.RandomState", _draw, sequential=True)


def _level(time: np.ndarray, shift: float) -> np.ndarray:
    """``shift t / (1 + (shift - 1) t)`` (Esser et al. 2024, arXiv 2403.03206, equation 23)."""
    return shift * time / (1 + (shift - 1) * time)


def _timestep(sigma: np.ndarray) -> np.ndarray:
    return _DISCRETE_STEPS * sigma.astype(np.float64)


def sd3_schedule(shift: float) -> ScheduleFormula:
    """Of ``num_steps`` even times from 1 to the first discrete step's sigma, and a last 0."""

    def sigma(num_steps: int) -> np.ndarray:
        least = _level(np.array(1 / _DISCRETE_STEPS), shift)
        return np.append(_level(np.linspace(1, least, num_steps), shift), 0)

    return ScheduleFormula(f"diffusionkit.sd3(shift={shift})", sigma, _timestep)


def flux_schedule(shift: float) -> ScheduleFormula:
    """Of ``num_steps + 1`` even times from 1 to 0."""

    def sigma(num_steps: int) -> np.ndarray:
        return _level(np.linspace(1, 0, num_steps + 1), shift)

    return ScheduleFormula(f"diffusionkit.flux(shift={shift})", sigma, _timestep)


def schedules_of_sampler(sampler: object) -> tuple[ScheduleFormula, ...]:
    """The formulas that a manifest which names only the sampler may mean."""
    match = _SAMPLER.fullmatch(str(sampler))
    if match is None:
        return ()
    shift = float(match[1])
    return sd3_schedule(shift), flux_schedule(shift)

"""Trajectories like those of a real model, at any size, without one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calibzarr.storage import schema, store

CHANNELS = 16


def sigmas(num_steps: int) -> np.ndarray:
    """Noise levels of Stable Diffusion 3: ``num_steps`` falling from 1, and a last 0."""
    timestep = np.linspace(1, 3 / 1002, num_steps)
    return np.append(3 * timestep / (1 + 2 * timestep), 0).astype(np.float32)


def trajectory(seed: int, size: int, num_steps: int) -> np.ndarray:
    """States ``sigma noise + (1 - sigma) field``, the field as smooth as a picture is.

    Returns:
        Shape (step, channel, height, width), float32.
    """
    random = np.random.default_rng(seed)
    shape = (CHANNELS, size, size)
    field, noise = _smooth(random, shape), random.standard_normal(shape, dtype=np.float32)
    sigma = sigmas(num_steps)[:, None, None, None]
    return sigma * noise + (1 - sigma) * field


def picture(seed: int, size: int) -> np.ndarray:
    """A picture of shape (row, column, rgb), uint8, with a little grain."""
    random = np.random.default_rng(seed)
    field = _smooth(random, (3, size, size)).transpose(1, 2, 0)
    grain = random.standard_normal(field.shape, dtype=np.float32)
    return np.clip(128 + 50 * field + 2 * grain, 0, 255).astype(np.uint8)


def _smooth(random: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Noise with the amplitude spectrum of natural pictures, 1 / frequency; variance 1."""
    spectrum = np.fft.rfft2(random.standard_normal(shape))
    frequency = np.hypot(np.fft.fftfreq(shape[1])[:, None], np.fft.rfftfreq(shape[2]))
    field = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / shape[1]), s=shape[1:])
    return (field / field.std(axis=(1, 2), keepdims=True)).astype(np.float32)


def create_store(
    path: Path,
    num_images: int,
    shape: tuple[int, ...],
    latent_dtype: str = "float32",
    prompts: Sequence[str] | None = None,
) -> None:
    """Create a store without an image, for trajectories of shape (step, channel, height, width)."""
    num_states, *latent_shape = shape
    levels = sigmas(num_states - 1)
    sizes = store.Sizes(num_images, num_states - 1, tuple(latent_shape), 8 * latent_shape[-1])
    coordinates = {
        schema.SIGMA.name: levels,
        schema.TIMESTEP.name: 1000 * levels,
        schema.FINAL.name: levels == 0,
        schema.PROMPT.name: np.array(prompts or [""] * num_images, dtype=object),
        schema.SEED.name: np.arange(num_images),
    }
    store.create(path, sizes, coordinates, {"latent_dtype": latent_dtype})

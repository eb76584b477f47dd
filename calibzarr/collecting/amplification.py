"""What an error made at one call is worth at the end of the sampling, by rolling it out."""

from collections.abc import Sequence

import numpy as np

from calibzarr.collecting.replay import Batch
from calibzarr.models.base import Array, DifferentiableModel, Layer, Transform
from calibzarr.quantization.levels import BITS
from calibzarr.quantization.quantizers import affine, quantized_by_tensor

AMPLIFIED_BITS = 5  # of the activations that make the error
ERROR_RMS = 0.02  # that it is scaled to, latent units


def rollout_calls(num_steps: int, step: int) -> int:
    """Model calls of a rollout from a call."""
    return 2 + num_steps - 1 - step


def rollout(
    model: DifferentiableModel, batch: Batch, step: int, ranges: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float]:
    """Add the error of quantized activations at one call to the next state, and sample on.

    Args:
        model: in full precision.
        batch: one image.
        step: index of the call, before the last.
        ranges: ends of the ranges of activations by tensor, each of shape (layer, bits).

    Returns:
        The share of the error's energy that the final latents have, and the error of the final
        latents over that of their pictures (in [0, 1]), dB.
    """
    error = _error_of_quantization(model, batch, step, ranges)
    error *= ERROR_RMS / np.sqrt(np.square(error).mean())
    following = batch.latents[:, step + 1].astype(np.float32)
    states = [_sample_on(batch, following + error, step + 1)]
    if batch.latents.dtype == np.float32:
        states.append(batch.latents[0, -1])
    else:  # stored states are rounded: what follows from them is not what is stored
        states.append(_sample_on(batch, following, step + 1))
    left = np.square(states[0] - states[1], dtype=np.float64)
    pictures = [model.picture(state) for state in states]
    seen = np.square(pictures[0] - pictures[1], dtype=np.float64).mean()
    gain = 10 * np.log10(left.mean() / seen) if seen > 0 else np.nan
    return float(left.sum() / np.square(error, dtype=np.float64).sum()), float(gain)


def _error_of_quantization(
    model: DifferentiableModel, batch: Batch, step: int, ranges: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """What quantizing all activations but text-only ones does to the guided output."""
    exact = model.to_numpy(batch.denoised(step))
    transform = quantizing_by_tensor(model.layers(), ranges, AMPLIFIED_BITS)
    with model.transforming_inputs(transform):
        quantized = model.to_numpy(batch.denoised(step))
    return np.asarray((exact - quantized) / batch.schedule.sigma[step])


def quantizing_by_tensor(
    layers: Sequence[Layer], ranges: tuple[np.ndarray, np.ndarray], bits: int
) -> Transform:
    """A transform that quantizes every layer's input with one range, but text-only ones.

    Args:
        layers: of the model.
        ranges: lower and upper ends, each of shape (layer, bits).
        bits: of a value.
    """
    column = BITS.index(bits)
    scales, zero_points = (
        values.tolist() for values in affine(ranges[0][:, column], ranges[1][:, column], bits)
    )

    def transform(layer: int, inputs: Array) -> Array:
        if layers[layer].text_only:
            return inputs
        return quantized_by_tensor(inputs, scales[layer], zero_points[layer], bits)

    return transform


def _sample_on(batch: Batch, latents: np.ndarray, step: int) -> np.ndarray:
    """Final latents of a sampling that goes on from a state; shape (channel, height, width)."""
    model, schedule = batch.model, batch.schedule
    x = model.from_numpy(latents)
    calls = range(step, schedule.num_steps)
    with model.denoiser(batch.conditioning, schedule, steps=calls) as denoise:
        for call in calls:
            x = schedule.euler_step(x, denoise(x, call), call)
            latents = model.to_numpy(x)  # computes it
    return np.asarray(latents[0])

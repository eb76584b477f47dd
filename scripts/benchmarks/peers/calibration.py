"""What the ways to choose bits are calibrated on: the states that sensitivities are measured on."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from calibzarr.collecting import measurement
from calibzarr.collecting.replay import Replay
from calibzarr.models.diffusionkit import DiffusionKitModel
from calibzarr.models.modulation import unchanged_parameters
from calibzarr.quantization.quantizers import Quantizer, quantized_weight
from calibzarr.storage import schema
from calibzarr.storage.manifest import read_root

GROUP = 64

Bits = Mapping[str, int]
"""Of each layer's weight, in groups of 64, by the path of its module."""


class Calibration:
    """A model with the images and calls that a store's sensitivities are of.

    Args:
        store: directory with sensitivities.
        model: of the store.
        apart: name of a layer that stays as it is.
    """

    def __init__(self, store: Path, model: DiffusionKitModel, apart: str) -> None:
        root = read_root(store)
        found = measurement.read(root.path, root.attributes[schema.SENSITIVITY])
        self._model = model
        self._batch = Replay.of(root, model).batch(found.images)
        self._steps = found.steps
        parameters = dict(tree_flatten(model.pipeline.mmdit.parameters()))
        self.weights = {
            layer.module: parameters[f"{layer.module}.weight"]
            for layer in model.layers()
            if layer.role == "input" and layer.name != apart
        }
        self._expected = dict(zip(self._steps, self._velocities({}), strict=True))

    def quantized(self, bits: Bits) -> dict[str, mx.array]:
        """Weights rounded to the nearest levels, by the path of the module."""
        return {
            module: quantized_weight(
                self.weights[module], Quantizer("weight", f"mlx-{GROUP}", number)
            ).astype(self.weights[module].dtype)
            for module, number in bits.items()
        }

    def uniform(self, number: int) -> dict[str, int]:
        """The same bits everywhere."""
        return dict.fromkeys(self.weights, number)

    def mean(self, bits: Bits) -> float:
        """Bits of a weight, scales and biases counted."""
        size = np.array([self.weights[module].size for module in bits])
        return float(np.array(list(bits.values())) @ size / size.sum()) + 32 / GROUP

    def error(self, weights: Mapping[str, mx.array]) -> float:
        """Mean squared error of the velocity, over all images and calls."""
        squares = [
            float(mx.square(velocity - self._expected[step]).mean())
            for step, velocity in zip(self._steps, self._velocities(weights), strict=True)
        ]
        return float(np.mean(squares))

    def gradient(self, weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """Of that error with respect to weights."""
        total = {module: mx.zeros(weight.shape) for module, weight in weights.items()}
        for step in self._steps:

            def loss(weights: dict[str, mx.array], step: int = step) -> mx.array:
                return mx.square(self._velocity(weights, step) - self._expected[step]).mean()

            found = mx.grad(loss)(dict(weights))
            total = {module: total[module] + found[module] / len(self._steps) for module in total}
            mx.eval(total)
        return total

    def _velocities(self, weights: Mapping[str, mx.array]) -> Iterator[mx.array]:
        for step in self._steps:
            velocity = self._velocity(weights, step)
            mx.eval(velocity)
            yield velocity

    def _velocity(self, weights: Mapping[str, mx.array], step: int) -> mx.array:
        """The guided output with some weights in the place of the model's."""
        model, batch = self._model, self._batch
        latents = model.from_numpy(batch.latents[:, step])
        with unchanged_parameters(model.pipeline.mmdit):
            model.pipeline.mmdit.load_weights(
                [(f"{module}.weight", weight) for module, weight in weights.items()], strict=False
            )
            with model.denoiser(batch.conditioning, batch.schedule, [step]) as denoise:
                denoised = denoise(latents, step)
        return (latents - denoised) / float(batch.schedule.sigma[step])

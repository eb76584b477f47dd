"""The seam of tuning: what it needs of a model; imports no framework."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from calibzarr.models.base import Conditioning, Schedule
from calibzarr.models.quantized.checkpointable import CheckpointableModel

Grid = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Levels of a weight, shape (output, feature), uint8; scales and biases, shape (output, group)."""


class Tuner(Protocol):
    """Scales and biases of quantized weights that are being tuned; levels stay."""

    def step(
        self,
        latents: np.ndarray,
        conditioning: Conditioning,
        schedule: Schedule,
        step: int,
        velocity: np.ndarray,
        learning_rate: float,
    ) -> float:
        """Make one step of Adam down the squared error of the guided output.

        Args:
            latents: states at ``step``, shape (image, channel, height, width).
            conditioning: of the images' prompts.
            schedule: of the sampling.
            step: index of the call.
            velocity: that ``(latents - denoised) / sigma`` is to be, of the same shape.
            learning_rate: of Adam.

        Returns:
            The mean squared error before it.
        """

    def scales(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Scales and biases so far, float32 of values of 16 bits, by index of the layer."""

    def state(self) -> dict[str, np.ndarray]:
        """All that :meth:`restore` needs to go on."""

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state."""


@runtime_checkable
class TunableModel(CheckpointableModel, Protocol):
    """A model whose quantized weights can be tuned."""

    def tuner(self, grids: Mapping[int, Grid]) -> Tuner:
        """Begin to tune a quantized copy of the transformer; this model stays as it is.

        Args:
            grids: of the layers that are quantized, by index in ``layers()``.
        """

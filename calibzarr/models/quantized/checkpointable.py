"""The seam of checkpoints: what they need of a model; imports no framework."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from calibzarr.models.base import DifferentiableModel, Layer, Model


class Parameters(Protocol):
    """The parameters of a module as a checkpoint has them."""

    def layers(self) -> tuple[Layer, ...]:
        """Linear layers and perhaps other values, in order of depth."""

    def parameters(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype in a checkpoint, ``F16`` or ``BF16``, and shape of each parameter, by its path."""

    def parameter(self, path: str) -> np.ndarray:
        """The bits of a parameter as a checkpoint has it, uint16, of its shape."""

    def levels_of_weight(
        self, layer: Layer, group_size: int, bits: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What ``mx.quantize`` makes of the weight of a linear layer in a checkpoint.

        Returns:
            Levels, shape (output, feature), uint8; scales and biases, shape (output, group),
            float32 of values of 16 bits.
        """


@runtime_checkable
class CheckpointableModel(DifferentiableModel, Parameters, Protocol):
    """A model whose transformer can be written as a checkpoint for ``mlx.nn.quantize``."""

    def t5(self) -> Parameters | None:
        """T5, which such a checkpoint can hold as well; None where the model has none."""

    def module_sizes(self) -> dict[str, int]:
        """Bytes of the weights of the transformer, the text encoders and the decoder, by name."""

    def with_checkpoint(self, directory: Path) -> Model:
        """A model that samples with the quantized transformer of a checkpoint, and its T5 if any.

        Its name, its fingerprint and all else are those of this one, which stays as it is.

        Raises:
            StoreError: if the checkpoint is damaged, or is of another model.
        """

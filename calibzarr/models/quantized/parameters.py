"""A module's parameters as a checkpoint has them: of 16 bits, as NumPy arrays."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from calibzarr.models.base import Layer
from calibzarr.quantization.quantizers import levels_by_group

_NAMES = {mx.float16: "F16", mx.bfloat16: "BF16"}


class ModuleParameters:
    """What a protocol of ``checkpointable.py``, ``Parameters``, asks beside ``layers``."""

    def _module(self) -> nn.Module:
        """The module."""
        raise NotImplementedError

    def parameters(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype in a checkpoint, ``F16`` or ``BF16``, and shape of each parameter, by its path."""
        return {
            path: (_NAMES.get(value.dtype, "F16"), tuple(value.shape))
            for path, value in sorted(tree_flatten(self._module().parameters()))
        }

    def parameter(self, path: str) -> np.ndarray:
        """The bits of a parameter as a checkpoint has it, uint16, of its shape."""
        value = dict(tree_flatten(self._module().parameters()))[path]
        return np.asarray(_stored(value).view(mx.uint16))

    def levels_of_weight(
        self, layer: Layer, group_size: int, bits: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What ``mx.quantize`` makes of the weight of a linear layer in a checkpoint."""
        return levels_of_weight(
            dict(self._module().named_modules())[layer.module], group_size, bits
        )


class TextEncoder(ModuleParameters):
    """A text encoder whose linear layers can be quantized."""

    def __init__(self, module: nn.Module) -> None:
        self._encoder = module

    def _module(self) -> nn.Module:
        return self._encoder

    def layers(self) -> tuple[Layer, ...]:
        """The linear layers, by path."""
        return tuple(
            Layer(path, path, path, "text", path, "input", module.weight.shape[1], path, path)
            for path, module in sorted(self._encoder.named_modules(), key=lambda item: item[0])
            if isinstance(module, nn.Linear)
        )


def levels_of_weight(
    module: nn.Linear, group_size: int, bits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What ``mx.quantize`` makes of the weight that a checkpoint would have.

    Returns:
        Levels, shape (output, feature), uint8; scales and biases, shape (output, group), float32.
    """
    level, scale, bias = levels_by_group(_stored(module.weight), group_size, bits)
    return (
        np.asarray(level.astype(mx.uint8)),
        np.asarray(scale.astype(mx.float32)),
        np.asarray(bias.astype(mx.float32)),
    )


def _stored(value: mx.array) -> mx.array:
    """In the dtype of a checkpoint."""
    return value if value.dtype in _NAMES else value.astype(mx.float16)

"""A transformer's parameters as a checkpoint has them: of 16 bits, as NumPy arrays."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from calibzarr.quantization.quantizers import levels_by_group

_NAMES = {mx.float16: "F16", mx.bfloat16: "BF16"}


def described(mmdit: nn.Module) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype in a checkpoint, ``F16`` or ``BF16``, and shape of each parameter, by its path."""
    return {
        path: (_NAMES.get(value.dtype, "F16"), tuple(value.shape))
        for path, value in sorted(tree_flatten(mmdit.parameters()))
    }


def parameter(mmdit: nn.Module, path: str) -> np.ndarray:
    """The bits of a parameter, uint16, of its shape."""
    return np.asarray(_stored(dict(tree_flatten(mmdit.parameters()))[path]).view(mx.uint16))


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

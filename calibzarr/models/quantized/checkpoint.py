"""A transformer from a quantized checkpoint, as ``mlx.nn.quantize`` and mlx-lm read it as well."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from calibzarr.errors import StoreError
from calibzarr.models.quantized.layout import WEIGHTS, read_config
from calibzarr.quantization.quantizers import on_levels


class DenseQuantizedLinear(nn.Module):
    """A linear layer whose weight is scale * level + bias in float32, prepared once.

    What ``mx.quantized_matmul`` computes, which is 11 times slower on a CPU. The output has the
    input's dtype.
    """

    def __init__(self, layer: nn.QuantizedLinear) -> None:
        super().__init__()
        levels = mx.dequantize(
            layer.weight,
            mx.ones(layer.scales.shape),  # dequantize rounds to the dtype of the scales
            mx.zeros(layer.scales.shape),
            group_size=layer.group_size,
            bits=layer.bits,
        )
        self.weight = on_levels(levels, layer.scales, layer.biases)
        if "bias" in layer:
            self.bias = layer.bias

    def __call__(self, x: mx.array) -> mx.array:
        """Shape (..., output), of the dtype of ``x``."""
        y = x.astype(mx.float32) @ self.weight.T
        if "bias" in self:
            y = y + self.bias.astype(mx.float32)
        return y.astype(x.dtype)


def load(mmdit: nn.Module, directory: Path, dtype: mx.Dtype) -> None:
    """Give a transformer the weights of a checkpoint, before it has run.

    Args:
        mmdit: DiffusionKit's transformer, of the checkpoint's sizes.
        directory: of the checkpoint.
        dtype: of what is not quantized.

    Raises:
        StoreError: if the checkpoint is damaged, or is of another model.
    """
    quantization = read_config(directory)["quantization"]
    try:
        nn.quantize(mmdit, class_predicate=lambda path, _: quantization.get(path, False))
        weights: Any = mx.load(str(directory / WEIGHTS))
        mmdit.load_weights([(path, _cast(path, value, dtype)) for path, value in weights.items()])
        mx.eval(mmdit.parameters())
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise StoreError(f"{directory} is damaged, or of another model: {reason}") from None
    if mx.default_device().type == mx.DeviceType.cpu:
        make_dense(mmdit)


def make_dense(mmdit: nn.Module) -> None:
    """Put :class:`DenseQuantizedLinear` in the place of quantized layers."""
    layers = mmdit.leaf_modules()
    modules = [
        (path, DenseQuantizedLinear(module))
        for path, module in tree_flatten(layers, is_leaf=nn.Module.is_module)
        if isinstance(module, nn.QuantizedLinear)
    ]
    for path, module in modules:
        mx.eval(module.parameters())
        _put(mmdit, path, module)


def _cast(path: str, value: mx.array, dtype: mx.Dtype) -> mx.array:
    of_levels = value.dtype == mx.uint32 or path.endswith((".scales", ".biases"))
    return value if of_levels else value.astype(dtype)


def _put(root: nn.Module, path: str, module: nn.Module) -> None:
    *parents, name = path.split(".")
    parent: Any = root
    for key in parents:
        parent = parent[int(key)] if isinstance(parent, list) else parent[key]
    parent[int(name) if isinstance(parent, list) else name] = module

"""Modules from a quantized checkpoint, as ``mlx.nn.quantize`` and mlx-lm read it as well."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from calibzarr.errors import StoreError
from calibzarr.models.compatibility import import_diffusionkit
from calibzarr.models.quantized.layout import T5, TRANSFORMER, Part, read_config
from calibzarr.quantization.quantizers import on_levels

kit: Any = import_diffusionkit()

_T5_CONFIG = "google/t5-v1_1-xxl"  # the repository that DiffusionKit has its sizes from


class DenseQuantizedLinear(nn.Module):
    """A linear layer whose weight is scale * level + bias in float32, prepared once.

    What ``mx.quantized_matmul`` computes, which is 11 times slower on a CPU. The output has the
    input's dtype.
    """

    def __init__(self, layer: nn.QuantizedLinear) -> None:
        super().__init__()
        self.weight = _weight(layer)
        if "bias" in layer:
            self.bias = layer.bias

    def __call__(self, x: mx.array) -> mx.array:
        """Shape (..., output), of the dtype of ``x``."""
        y = x.astype(mx.float32) @ self.weight.T
        if "bias" in self:
            y = y + self.bias.astype(mx.float32)
        return y.astype(x.dtype)


class UnpackedQuantizedLinear(nn.Module):
    """The same, whose weight is computed in each call: memory holds the packed one."""

    def __init__(self, layer: nn.QuantizedLinear) -> None:
        super().__init__()
        self.packed = layer

    def __call__(self, x: mx.array) -> mx.array:
        """Shape (..., output), of the dtype of ``x``."""
        return DenseQuantizedLinear(self.packed)(x)


def _weight(layer: nn.QuantizedLinear) -> mx.array:
    levels = mx.dequantize(
        layer.weight,
        mx.ones(layer.scales.shape),  # dequantize rounds to the dtype of the scales
        mx.zeros(layer.scales.shape),
        group_size=layer.group_size,
        bits=layer.bits,
    )
    return on_levels(levels, layer.scales, layer.biases)


def load(mmdit: nn.Module, directory: Path, dtype: mx.Dtype) -> None:
    """Give a transformer the weights of a checkpoint, before it has run.

    Args:
        mmdit: DiffusionKit's transformer, of the checkpoint's sizes.
        directory: of the checkpoint.
        dtype: of what is not quantized.

    Raises:
        StoreError: if the checkpoint is damaged, or is of another model.
    """
    _load(mmdit, directory, dtype, TRANSFORMER)
    if _on_cpu():
        make_dense(mmdit, DenseQuantizedLinear)


def load_t5(directory: Path, dtype: mx.Dtype) -> nn.Module:
    """DiffusionKit's T5 with the weights of a checkpoint that has them.

    Args:
        directory: of the checkpoint.
        dtype: of what is not quantized.

    Raises:
        StoreError: if the checkpoint is damaged, or is of another model.
    """
    config = kit.model_io.T5Config.from_pretrained(_T5_CONFIG)
    encoder: nn.Module = kit.t5.SD3T5Encoder(config, low_memory_mode=False)
    _load(encoder, directory, dtype, T5)
    if _on_cpu():
        make_dense(encoder, UnpackedQuantizedLinear)  # each weight is used once an image
    return encoder


def _load(module: nn.Module, directory: Path, dtype: mx.Dtype, part: Part) -> None:
    quantization = read_config(directory)[part.entry]
    try:
        nn.quantize(module, class_predicate=lambda path, _: quantization.get(path, False))
        weights: Any = mx.load(str(directory / part.weights))
        module.load_weights([(path, _cast(path, value, dtype)) for path, value in weights.items()])
        mx.eval(module.parameters())
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise StoreError(f"{directory} is damaged, or of another model: {reason}") from None


def _on_cpu() -> bool:
    return bool(mx.default_device().type == mx.DeviceType.cpu)


def make_dense(module: nn.Module, dense: Callable[[nn.QuantizedLinear], nn.Module]) -> None:
    """Put what ``dense`` makes of them in the place of quantized linear layers."""
    layers = module.leaf_modules()
    made = [
        (path, dense(layer))
        for path, layer in tree_flatten(layers, is_leaf=nn.Module.is_module)
        if isinstance(layer, nn.QuantizedLinear)
    ]
    for path, layer in made:
        mx.eval(layer.parameters())
        _put(module, path, layer)


def _cast(path: str, value: mx.array, dtype: mx.Dtype) -> mx.array:
    of_levels = value.dtype == mx.uint32 or path.endswith((".scales", ".biases"))
    return value if of_levels else value.astype(dtype)


def _put(root: nn.Module, path: str, module: nn.Module) -> None:
    *parents, name = path.split(".")
    parent: Any = root
    for key in parents:
        parent = parent[int(key)] if isinstance(parent, list) else parent[key]
    parent[int(name) if isinstance(parent, list) else name] = module

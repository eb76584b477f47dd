"""Layers of SD3-medium's shapes quantized block by block, with inputs that are drawn."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from calibzarr.models.quantized import parameters
from calibzarr.quantization.gptq import gptq

_KINDS = ((1, 1),) * 4 + ((1, 4), (4, 1), (1, 6))  # q, k, v, o, fc1, fc2, adaLN: input, output
_READERS = ((0, 1, 2), (3,), (4,), (5,), (6,))  # layers that share an input
_IN_BLOCK = 2 * len(_KINDS)  # of image and of text
_BITS, _GROUP, _TOKENS = 4, 64, 512


def expected(num_layers: int, width: int) -> int:
    """Bytes of all weights in float16, and of one block's weights and Hessians."""
    weights = [2 * width**2 * inputs * outputs for inputs, outputs in _KINDS]
    hessians = [4 * (width * _KINDS[readers[0]][0]) ** 2 for readers in _READERS]
    all_weights = sum(weights[index % len(_KINDS)] for index in range(num_layers))
    return all_weights + 2 * (sum(weights) + sum(hessians))


def quantize(num_layers: int, width: int, directory: str) -> None:
    """Round layers by GPTQ; levels are kept on the disk, as ``calibzarr.quantize`` keeps them.

    Args:
        num_layers: linear ones, in blocks of 14.
        width: features of the residual streams; SD3-medium's are 1536.
        directory: to write to.
    """
    modules = []
    for index in range(num_layers):
        inputs, outputs = _KINDS[index % len(_KINDS)]
        module = nn.Linear(1, 1, bias=False)
        shape = (width * outputs, width * inputs)
        module.weight = mx.random.normal(shape, dtype=mx.float16, scale=0.02)
        mx.eval(module.weight)
        modules.append(module)
    mx.clear_cache()
    with TemporaryDirectory(dir=directory) as kept:
        for start in range(0, num_layers, _IN_BLOCK):
            block = modules[start : start + _IN_BLOCK]
            hessians = dict(_hessians(len(block), width, seed=start))
            for index, module in enumerate(block):
                grid = parameters.levels_of_weight(module, _GROUP, _BITS)
                weight = np.asarray(module.weight.astype(mx.float32))
                level = gptq(weight, *grid, _BITS, hessians[index])
                np.save(Path(kept) / f"{start + index}.npy", level)


def _hessians(num_layers: int, width: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """Of inputs of a block's layers, one array for those that share it."""
    generator = np.random.default_rng(seed)
    for stream in range(0, num_layers, len(_KINDS)):
        for readers in _READERS:
            features = width * _KINDS[readers[0]][0]
            x = generator.standard_normal((_TOKENS, features), dtype=np.float32)
            hessian = x.T @ x
            for reader in readers:
                if stream + reader < num_layers:
                    yield stream + reader, hessian

"""Which weights decide a picture, and a hash of them."""

import hashlib
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten


def fingerprint(modules: Mapping[str, nn.Module]) -> str:
    """BLAKE2b of the names, dtypes, shapes and bytes of all parameters, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    for name, module in sorted(modules.items()):
        for path, value in sorted(tree_flatten(module.parameters())):
            digest.update(f"{name}.{path} {value.dtype} {value.shape}\n".encode())
            digest.update(np.asarray(value.reshape(-1).view(mx.uint8)).data)
    return digest.hexdigest()


def deciding_modules(pipeline: Any) -> dict[str, nn.Module]:
    """The transformer, the decoder and the text encoders of a pipeline, by name."""
    names = ("mmdit", "decoder", "clip_l", "clip_g", "t5_encoder")
    return {name: getattr(pipeline, name) for name in names if hasattr(pipeline, name)}

"""The files of a quantized checkpoint; imports no framework."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibzarr.errors import StoreError

CONFIG = "config.json"
CARD = "README.md"


@dataclass(frozen=True)
class Part:
    """A module of which a checkpoint holds the weights.

    Attributes:
        weights: name of its file.
        entry: in ``config.json``, that says how each layer is quantized.
    """

    weights: str
    entry: str


TRANSFORMER = Part("model.safetensors", "quantization")
T5 = Part("t5.safetensors", "t5_quantization")  # mlx-lm loads all of model*.safetensors
WEIGHTS = TRANSFORMER.weights


def read_config(directory: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        StoreError: if it is none, or is not whole.
    """
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{directory} is no quantized checkpoint: it has no {CONFIG}") from None
    except ValueError as error:
        raise StoreError(f"{directory / CONFIG} is damaged: {error}") from None
    for name in ("model", "quantization"):
        if not isinstance(config, dict) or name not in config:
            raise StoreError(f"{directory} is no checkpoint of calibzarr's: {CONFIG} has no {name}")
    return config


def has_t5(directory: Path) -> bool:
    """Whether a checkpoint holds T5 as well.

    Raises:
        StoreError: if it is none, or is not whole.
    """
    return T5.entry in read_config(directory)


def sha256(directory: Path) -> str:
    """SHA-256 of a checkpoint's configuration and tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS, *([T5.weights] if has_t5(directory) else [])):
        with (directory / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()

"""The files of a quantized checkpoint; imports no framework."""

import hashlib
import json
from pathlib import Path
from typing import Any

from calibzarr.errors import StoreError

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"


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


def sha256(directory: Path) -> str:
    """SHA-256 of a checkpoint's configuration and tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        with (directory / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()

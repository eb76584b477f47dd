"""What training has reached, on disk: whole at every moment, so that it goes on after a kill."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from calibzarr.storage import durable


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays under their names to one file, whole or not at all.

    Raises:
        OSError: if it cannot be written. What stood under the name stays.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    durable.write(path, buffer.getbuffer())


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what :func:`save_arrays` wrote."""
    with np.load(path) as arrays:
        return dict(arrays)


def save(path: Path, step: int, settings: Any, trees: dict[str, Any]) -> None:
    """Write the number of steps done, the settings, and trees of parameters by name."""
    arrays = {
        f"{name}/{key}": np.asarray(value)
        for name, tree in trees.items()
        for key, value in tree_flatten(tree)
    }
    save_arrays(path, {"step": np.array(step), "settings": np.array(_text(settings)), **arrays})


def load(path: Path, settings: Any) -> tuple[int, dict[str, Any]]:
    """Read what :func:`save` wrote.

    Raises:
        ValueError: if it was written with other settings.
    """
    arrays = load_arrays(path)
    step, written = int(arrays.pop("step")), str(arrays.pop("settings"))
    if written != _text(settings):
        raise ValueError(
            f"{path} was trained with {written}, not {_text(settings)}; use another directory"
        )
    flat: dict[str, list[tuple[str, mx.array]]] = {}
    for key, value in arrays.items():
        name, _, rest = key.partition("/")
        flat.setdefault(name, []).append((rest, mx.array(value)))
    return step, {name: tree_unflatten(items) for name, items in flat.items()}


def _text(settings: Any) -> str:
    """The settings that decide the weights, as JSON."""
    decisive = asdict(settings)
    decisive.pop("checkpoint_every")
    return json.dumps(decisive)

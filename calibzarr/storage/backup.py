"""Second copies of what nothing can compute again: the root's metadata, prompts and seeds.

Two small files with a checksum, in a directory of the variable ``prompt`` that no reader of Zarr
looks into. They are written when the originals are, and read by verification and repair alone.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calibzarr.storage import durable, schema

ROOT = "root.json"
COORDINATES = "coordinates.json"


def file(path: Path, name: str) -> Path:
    """Where a copy is: ``ROOT`` or ``COORDINATES`` of the store at ``path``."""
    return path / schema.PROMPT.name / "backup" / name


def write_root(path: Path, root: Mapping[str, Any]) -> None:
    """Keep a copy of the root's ``zarr.json``.

    One that decides on other states than the copy that is there is damaged, and not kept.
    """
    copy = read_root(path)
    if copy is None or not differing(root["attributes"], copy["attributes"]):
        _write(file(path, ROOT), root)


def differing(attributes: Mapping[str, Any], copy: Mapping[str, Any]) -> list[str]:
    """Names of the attributes that decide what the states are and that a copy contradicts.

    What the copy says nothing of, as that of an imported store may, is no contradiction.
    """
    names = ("format", "format_version", *schema.FINGERPRINT, *schema.FORMULAS)
    return [name for name in names if copy.get(name) not in (None, attributes.get(name))]


def read_root(path: Path) -> dict[str, Any] | None:
    """The copy of the root's ``zarr.json``; None where there is none that is whole."""
    root = _read(file(path, ROOT))
    return root if isinstance((root or {}).get("attributes"), dict) else None


def write_coordinates(path: Path, coordinates: Mapping[str, np.ndarray]) -> None:
    """Keep copies of coordinates, by name; those that are not given stay as they were."""
    values = {name: np.asarray(array).tolist() for name, array in coordinates.items()}
    _write(file(path, COORDINATES), {**(_read(file(path, COORDINATES)) or {}), **values})


def read_coordinates(path: Path) -> dict[str, np.ndarray]:
    """The copies of coordinates, by name, as far as there are any that are whole."""
    dtypes = {variable.name: variable.dtype for variable in schema.BUILD_VARIABLES}
    return {
        name: np.asarray(values, dtype=object if dtypes[name] == "string" else dtypes[name])
        for name, values in (_read(file(path, COORDINATES)) or {}).items()
    }


def _write(target: Path, content: Mapping[str, Any]) -> None:
    data = {"sha256": _sha256(content), "content": content}
    durable.write(target, json.dumps(data).encode())


def _read(source: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(source.read_text(encoding="utf-8"))
        whole = data["sha256"] == _sha256(data["content"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return dict(data["content"]) if whole else None


def _sha256(content: Any) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

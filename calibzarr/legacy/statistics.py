"""Statistics in the form of the old directory's two files, both ways."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from calibzarr.legacy import format as legacy
from calibzarr.statistics.histogram import quantile
from calibzarr.storage import schema, store

ATTRIBUTE = "legacy_statistics"
"""Root attribute of a store: the old statistics that were imported with it, file by file."""

_FILES = (legacy.LAYER_STATISTICS, legacy.COLLECTION)
_MOST_BYTES = 1 << 20  # of both: they become part of the metadata, which every reader loads


def from_store(path: Path) -> dict[str, Any] | None:
    """Content of the two files, by name; None where a store has no statistics at all.

    What was collected comes before what was imported.
    """
    attributes = store.manifest(path)
    if "activations" not in attributes:
        imported = attributes.get(ATTRIBUTE)
        return dict(imported) if isinstance(imported, dict) else None
    group = store.open_group(path, mode="r")
    steps, images = (
        np.flatnonzero(_values(group, variable.name)).tolist()
        for variable in (schema.COLLECTED, schema.COLLECTED_IMAGE)
    )
    return {
        legacy.LAYER_STATISTICS: _layer_statistics(group, steps),
        legacy.COLLECTION: {
            "num_images_processed": len(images),
            "num_timesteps_per_image": len(steps),
            "total_samples": len(images) * len(steps),
            "key_timesteps": steps,
            "selected_image_ids": images,
            "collection_time_minutes": None,  # not known
            "errors": [],
        },
    }


def _layer_statistics(group: zarr.Group, steps: list[int]) -> dict[str, Any]:
    """Statistics of each block's output over all collected steps.

    Of a block with two streams it is the image's, which bears the block's name, as in the old
    files.
    """
    names, blocks = _values(group, "layer"), _values(group, "block")
    rows = np.flatnonzero((_values(group, "kind") == "block") & (names == blocks))
    counts, means, stds, low, high = (
        _values(group, f"value_{name}", (rows, steps)).astype(np.float64)
        for name in ("count", "mean", "std", "min", "max")
    )
    histogram = np.zeros((len(rows), len(_values(group, "bin_low"))), dtype=np.int64)
    for step in steps:  # a chunk of the store; all of them may be more than the memory
        histogram += _values(group, "histogram", (rows, step))
    fractions = np.array(list(legacy.QUANTILES.values()))
    low_edges, high_edges = _values(group, "bin_low"), _values(group, "bin_high")
    percentiles = quantile(histogram, low_edges, high_edges, fractions)
    total = counts.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(counts * means, axis=1) / total
        squares = counts * (stds**2 + (means - mean[:, None]) ** 2)
        std = np.sqrt(np.nansum(squares, axis=1) / total)
    return {
        str(names[row]): {
            "min": float(np.nanmin(low[place])),
            "max": float(np.nanmax(high[place])),
            "mean": float(mean[place]),
            "std": float(std[place]),
            "percentiles": dict(zip(legacy.QUANTILES, percentiles[place].tolist(), strict=True)),
            "num_samples": int(total[place]),
        }
        for place, row in enumerate(rows)
        if total[place]  # a block whose every value was infinite or NaN has none of these
    }


def _values(group: zarr.Group, name: str, selection: Any = slice(None)) -> np.ndarray:
    return np.asarray(store.array(group, name).oindex[selection])


def read(directory: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Content of an old directory's two files, by name, and what is wrong with them.

    Returns:
        The content, or None where there is none; and one line for each file that is of no use.
    """
    content: dict[str, Any] = {}
    problems = []
    for name in _FILES:
        path = directory / legacy.ACTIVATIONS / name
        if not path.exists():
            continue
        try:
            value = read_json(path, _MOST_BYTES // len(_FILES))
        except ValueError as error:
            problems.append(f"{path} is left out: it {error}")
            continue
        content[name] = _finite(value)
    return content or None, problems


def read_json(path: Path, most_bytes: int) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: if it cannot be read, is no object, or is larger than ``most_bytes``; the
            message goes on after the name of the file.
    """
    try:
        size = path.stat().st_size
        if size > most_bytes:
            raise ValueError(f"has {size} bytes, more than the {most_bytes} that are read")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"is no JSON object, but a {type(value).__name__}")
    return value


def _finite(value: Any) -> Any:
    """The same with null for infinities and NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""Statistics in the form of the old directory's two files, both ways."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from calibzarr import strict_json
from calibzarr.legacy import old_format
from calibzarr.legacy.bounded import Unreadable, read_json
from calibzarr.statistics.histogram import quantile
from calibzarr.storage import schema, store
from calibzarr.storage.manifest import Root

ATTRIBUTE = "legacy_statistics"
"""Root attribute of a store: the old statistics that were imported with it, file by file."""

_FILES = (old_format.LAYER_STATISTICS, old_format.COLLECTION)
_MOST_BYTES = 1 << 20  # of both: they become part of the metadata, which every reader loads


def from_store(root: Root) -> dict[str, Any] | None:
    """Content of the two files, by name; None where a store has no statistics at all.

    What was collected comes before what was imported.
    """
    if schema.ACTIVATIONS not in root.attributes:
        imported = root.attributes.get(ATTRIBUTE)
        return dict(imported) if isinstance(imported, dict) else None
    group = store.open_group(root, mode="r")
    steps, images = (
        np.flatnonzero(_values(group, variable.name)).tolist()
        for variable in (schema.COLLECTED, schema.COLLECTED_IMAGE)
    )
    return {
        old_format.LAYER_STATISTICS: _layer_statistics(group, steps),
        old_format.COLLECTION: {
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
    fractions = np.array(list(old_format.QUANTILES.values()))
    low_edges, high_edges = _values(group, "bin_low"), _values(group, "bin_high")
    percentiles = quantile(histogram, low_edges, high_edges, fractions)
    total = counts.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(counts * means, axis=1) / total
        squares = counts * (stds**2 + (means - mean[:, None]) ** 2)
        std = np.sqrt(np.nansum(squares, axis=1) / total)
    return {
        name: {
            "min": float(np.nanmin(low[index])),
            "max": float(np.nanmax(high[index])),
            "mean": float(mean[index]),
            "std": float(std[index]),
            "percentiles": dict(
                zip(old_format.QUANTILES, percentiles[index].tolist(), strict=True)
            ),
            "num_samples": int(total[index]),
        }
        for index, name in enumerate(map(str, names[rows]))
        if total[index]  # a block whose every value was infinite or NaN has none of these
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
        path = directory / old_format.ACTIVATIONS / name
        if not os.path.lexists(path):
            continue
        try:
            value = read_json(path, _MOST_BYTES // len(_FILES))
        except Unreadable as error:
            problems.append(f"{path} is left out: it {error}")
            continue
        try:
            content[name] = strict_json.finite(value)
        except RecursionError:
            problems.append(f"{path} is left out: it is nested too deeply")
    return content or None, problems

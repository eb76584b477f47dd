"""Statistics in a store."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from calibzarr.errors import Call, StoreError
from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.running import Statistics
from calibzarr.storage import schema, staging, store
from calibzarr.storage.manifest import Root, read_root

ATTRIBUTE = schema.ACTIVATIONS


def read(root: Root, bins: LogBins) -> Statistics | None:
    """The statistics of a store at its collected steps; None where there are none.

    Raises:
        StoreError: if their histograms have other bins.
    """
    covered = extent(root, bins)
    if covered is None:
        return None
    steps, images = covered
    group = store.open_group(root, mode="r")
    derived = {
        variable.name: _read(
            group,
            variable.name,
            (slice(None), steps, images) if "image" in variable.dims else (slice(None), steps),
        )
        for variable in schema.STATISTICS
    }
    return Statistics.from_derived(bins, steps, images, derived)


def extent(root: Root, bins: LogBins) -> tuple[list[int], list[int]] | None:
    """Steps and images that a store's statistics cover; None where there are none.

    Raises:
        StoreError: if their histograms have other bins.
    """
    activations = _activations(root)
    if activations is None:
        return None
    stored = LogBins(**activations["bins"])
    if stored != bins:
        raise StoreError(
            f"{root.path} has statistics on another grid, {stored}; this calibzarr counts on "
            f"{bins}. Start over with: ",
            Call("collect", (root.path,), {"force": True}),
        )
    group = store.open_group(root, mode="r")
    steps, images = (
        np.flatnonzero(_read(group, variable.name)).tolist()
        for variable in (schema.COLLECTED, schema.COLLECTED_IMAGE)
    )
    return steps, images


def stamp(root: Root) -> str | None:
    """What tells this store's statistics from any others; None where there are none."""
    activations = _activations(root)
    return None if activations is None else str(activations["stamp"])


def _activations(root: Root) -> dict[str, Any] | None:
    activations = root.attributes.get(ATTRIBUTE)
    if activations is not None and not isinstance(activations, dict):
        raise StoreError(f"{root.path} is damaged: its attribute {ATTRIBUTE!r} is no object")
    return activations


def _read(group: zarr.Group, name: str, selection: Any = slice(None)) -> np.ndarray:
    return np.asarray(store.array(group, name).oindex[selection])


def replace(
    path: Path,
    statistics: Statistics,
    layers: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    activations: Mapping[str, Any],
) -> None:
    """Put statistics in the place of those that a store has.

    Args:
        path: directory of the store.
        statistics: every image at every step.
        layers: values of the coordinates about layers, by name, in the order of the arrays.
        weights: values of the variables about weights, by name.
        activations: the attribute that says what was collected, JSON types only.

    Raises:
        OSError: if they cannot be written; the old ones stay.
    """
    num_images, num_states, *_ = read_root(path).arrays[schema.LATENTS.name]["shape"]
    sizes = {
        "image": num_images,
        "step": num_states,
        "layer": len(layers["layer"]),
        "bin": statistics.bins.count,
        "feature": int(layers["features"].max()),
    }
    with staging.stage(path, schema.COLLECTION, sizes, activations) as staged:
        values = {
            **weights,
            **layers,
            "bin_low": statistics.bins.low,
            "bin_high": statistics.bins.high,
            schema.COLLECTED_IMAGE.name: np.isin(np.arange(sizes["image"]), statistics.images),
            schema.COLLECTED.name: np.isin(np.arange(sizes["step"]), statistics.steps),
        }
        for name, array in values.items():
            store.array(staged, name)[:] = array
        for name, array in statistics.derived().items():
            _write_statistic(store.array(staged, name), array, statistics)
    install(path)


def _write_statistic(target: zarr.Array[Any], values: np.ndarray, statistics: Statistics) -> None:
    """Write values of the observed steps, shape (layer, step, ...), chunk by chunk."""
    if values.ndim == 2:  # a single chunk, written once
        all_steps = np.full(target.shape, target.fill_value, dtype=target.dtype)
        all_steps[:, list(statistics.steps)] = values
        target[:] = all_steps
        return
    for index, step in enumerate(statistics.steps):
        if target.basename.startswith("image_"):
            shape = target.shape[0], target.shape[2]
            all_images = np.full(shape, np.nan, dtype=values.dtype)
            all_images[:, list(statistics.images)] = values[:, index]
            target[:, step] = all_images
        else:
            target[:, step] = values[:, index]


def install(path: Path) -> bool:
    """Move complete new statistics into their place, also after a kill; return whether any were."""
    return staging.install(path, schema.COLLECTION)

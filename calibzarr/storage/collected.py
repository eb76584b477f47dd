"""Statistics in a store; and the checkpoint of a collection."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.running import Statistics
from calibzarr.storage import durable, schema, staging, store

ATTRIBUTE = schema.ACTIVATIONS
_CHECKPOINT = "collect.checkpoint"


def read(path: Path, bins: LogBins) -> Statistics | None:
    """The statistics of a store at its collected steps; None where there are none.

    Raises:
        ValueError: if their histograms have other bins.
    """
    group = store.open_group(path, mode="r")
    if ATTRIBUTE not in group.attrs:
        return None
    _check_bins(path, group, bins)
    steps, images = (
        np.flatnonzero(_read(group, variable.name))
        for variable in (schema.COLLECTED, schema.COLLECTED_IMAGE)
    )
    derived = {
        variable.name: _read(
            group,
            variable.name,
            (slice(None), steps, images) if "image" in variable.dims else (slice(None), steps),
        )
        for variable in schema.STATISTICS
    }
    return Statistics.from_derived(bins, steps.tolist(), images.tolist(), derived)


def _check_bins(path: Path, group: zarr.Group, bins: LogBins) -> None:
    stored = LogBins(**_activations(group)["bins"])
    if stored != bins:
        raise ValueError(
            f"{path} has statistics on another grid, {stored}; this calibzarr counts on {bins}. "
            f"Start over with: calibzarr collect {path} --force"
        )


def stamp(path: Path) -> str | None:
    """What tells this store's statistics from any others; None where there are none."""
    group = store.open_group(path, mode="r")
    return str(_activations(group)["stamp"]) if ATTRIBUTE in group.attrs else None


def _activations(group: zarr.Group) -> dict[str, Any]:
    activations = group.attrs[ATTRIBUTE]
    if not isinstance(activations, dict):
        raise ValueError(f"{group.store} is damaged: its attribute {ATTRIBUTE!r} is no object")
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
    group = store.open_group(path, mode="r")
    shape = store.array(group, schema.LATENTS.name).shape
    sizes = {
        "image": shape[0],
        "step": shape[1],
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


def write_checkpoint(path: Path, statistics: Statistics, began_with: str | None) -> None:
    """Keep what a collection has so far, in one file of the store.

    Args:
        path: directory of the store.
        statistics: so far.
        began_with: stamp of the store's statistics when the collection began.
    """
    header = {
        "bins": asdict(statistics.bins),
        "steps": statistics.steps,
        "images": statistics.images,
        "began_with": began_with,
    }
    with durable.new_file(path / _CHECKPOINT) as file:
        np.savez(
            file,
            header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
            covered=statistics.covered,
            **statistics.arrays,  # type: ignore[arg-type]
        )


def read_checkpoint(path: Path, bins: LogBins) -> Statistics | None:
    """What an interrupted collection had; None where there is none that fits the store now."""
    checkpoint = _open_checkpoint(path, bins)
    if checkpoint is None:
        return None
    with checkpoint as file:
        steps, images = _extent(file)
        arrays = {name: file[name] for name in file.files if name != "header"}
    return Statistics(bins, steps, images, arrays.pop("covered"), arrays)


def has_checkpoint(path: Path, bins: LogBins) -> bool:
    """Whether an interrupted collection left a checkpoint that fits the store now."""
    checkpoint = _open_checkpoint(path, bins)
    if checkpoint is not None:
        checkpoint.close()
    return checkpoint is not None


def coverage(path: Path, bins: LogBins, shape: tuple[int, int]) -> np.ndarray:
    """What is observed already, by an interrupted collection or the store's statistics.

    Args:
        path: directory of the store.
        bins: of the histograms.
        shape: numbers of images and of states.

    Returns:
        Shape (image, step), bool.

    Raises:
        ValueError: if the store's histograms have other bins.
    """
    covered = np.zeros(shape, dtype=bool)
    checkpoint = _open_checkpoint(path, bins)
    if checkpoint is not None:
        with checkpoint as file:
            steps, images = _extent(file)
            covered[np.ix_(images, steps)] = file["covered"]
        return covered
    group = store.open_group(path, mode="r")
    if ATTRIBUTE in group.attrs:
        _check_bins(path, group, bins)
        collected = (schema.COLLECTED_IMAGE, schema.COLLECTED)
        covered[np.ix_(*(np.flatnonzero(_read(group, own.name)) for own in collected))] = True
    return covered


def _open_checkpoint(path: Path, bins: LogBins) -> Any:
    try:
        file = np.load(path / _CHECKPOINT, allow_pickle=False)
        header = json.loads(file["header"].tobytes())
    except (FileNotFoundError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    fits = LogBins(**header["bins"]) == bins and header["began_with"] == stamp(path)
    if not fits:
        file.close()
    return file if fits else None


def _extent(file: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Steps and images that a checkpoint has room for."""
    header = json.loads(file["header"].tobytes())
    return tuple(header["steps"]), tuple(header["images"])


def remove_checkpoint(path: Path) -> None:
    """Remove the checkpoint, if there is one."""
    (path / _CHECKPOINT).unlink(missing_ok=True)

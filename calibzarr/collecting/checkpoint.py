"""What an interrupted collection leaves in its store, to go on from."""

import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from calibzarr.statistics.cached import CachedStatistics
from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.running import Statistics
from calibzarr.storage import collected, durable
from calibzarr.storage.manifest import Root

FILE = "collect.checkpoint"
_CACHED = "cached_"  # what names of arrays of the layers of the caching pass begin with


def write(
    path: Path, statistics: Statistics, cached: CachedStatistics, began_with: str | None
) -> None:
    """Keep what a collection has so far, in one file of the store.

    Args:
        path: directory of the store.
        statistics: so far.
        cached: likewise, of the same images.
        began_with: stamp of the store's statistics when the collection began.
    """
    header = {
        "bins": asdict(statistics.bins),
        "steps": statistics.steps,
        "images": statistics.images,
        "cached_layers": cached.layers,
        "num_calls": len(cached.statistics.steps),
        "began_with": began_with,
    }
    arrays = {
        **statistics.arrays,
        **{_CACHED + name: array for name, array in cached.statistics.arrays.items()},
    }
    with durable.new_file(path / FILE) as file:
        np.savez(
            file,
            header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
            covered=statistics.covered,
            cached_covered=cached.statistics.covered,
            **arrays,  # type: ignore[arg-type]
        )


def read(root: Root, bins: LogBins) -> tuple[Statistics, CachedStatistics] | None:
    """What an interrupted collection had; None where there is none that fits the store now."""
    checkpoint = _open(root, bins)
    if checkpoint is None:
        return None
    with checkpoint as file:
        header = _header(file)
        arrays = {name: file[name] for name in file.files if name != "header"}
    of_cached = {name: arrays.pop(name) for name in list(arrays) if name.startswith(_CACHED)}
    of_cached = {name.removeprefix(_CACHED): array for name, array in of_cached.items()}
    images, calls = tuple(header["images"]), tuple(range(header["num_calls"]))
    return (
        Statistics(bins, tuple(header["steps"]), images, arrays.pop("covered"), arrays),
        CachedStatistics(
            tuple(header["cached_layers"]),
            Statistics(bins, calls, images, of_cached.pop("covered"), of_cached),
        ),
    )


def exists(root: Root, bins: LogBins) -> bool:
    """Whether an interrupted collection left a checkpoint that fits the store now."""
    checkpoint = _open(root, bins)
    if checkpoint is not None:
        checkpoint.close()
    return checkpoint is not None


def coverage(root: Root, bins: LogBins, shape: tuple[int, int]) -> np.ndarray:
    """What is observed already, by an interrupted collection or the store's statistics.

    Args:
        root: of the store.
        bins: of the histograms.
        shape: numbers of images and of states.

    Returns:
        Shape (image, step), bool.

    Raises:
        StoreError: if the store's histograms have other bins.
    """
    covered = np.zeros(shape, dtype=bool)
    checkpoint = _open(root, bins)
    if checkpoint is not None:
        with checkpoint as file:
            header = _header(file)
            steps, images = header["steps"], header["images"]
            covered[np.ix_(images, steps)] = file["covered"]
    elif (extent := collected.extent(root, bins)) is not None:
        collected_steps, collected_images = extent
        covered[np.ix_(collected_images, collected_steps)] = True
    return covered


def _open(root: Root, bins: LogBins) -> Any:
    if not zipfile.is_zipfile(root.path / FILE):
        return None
    file = np.load(root.path / FILE, allow_pickle=False)
    try:
        header = _header(file)
        fits = (
            LogBins(**header["bins"]) == bins
            and header["began_with"] == collected.stamp(root)
            and "cached_layers" in header  # older versions did not observe them at every call
        )
    except (ValueError, KeyError, zipfile.BadZipFile):
        fits = False
    if not fits:
        file.close()
    return file if fits else None


def _header(file: Any) -> Any:
    return json.loads(file["header"].tobytes())


def remove(path: Path) -> None:
    """Remove the checkpoint, if there is one."""
    (path / FILE).unlink(missing_ok=True)

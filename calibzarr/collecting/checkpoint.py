"""What an interrupted collection leaves in its store, to go on from."""

import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.running import Statistics
from calibzarr.storage import collected, durable
from calibzarr.storage.manifest import Root

FILE = "collect.checkpoint"


def write(path: Path, statistics: Statistics, began_with: str | None) -> None:
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
    with durable.new_file(path / FILE) as file:
        np.savez(
            file,
            header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
            covered=statistics.covered,
            **statistics.arrays,  # type: ignore[arg-type]
        )


def read(root: Root, bins: LogBins) -> Statistics | None:
    """What an interrupted collection had; None where there is none that fits the store now."""
    checkpoint = _open(root, bins)
    if checkpoint is None:
        return None
    with checkpoint as file:
        steps, images = _extent(file)
        arrays = {name: file[name] for name in file.files if name != "header"}
    return Statistics(bins, steps, images, arrays.pop("covered"), arrays)


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
            steps, images = _extent(file)
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
        header = json.loads(file["header"].tobytes())
        fits = LogBins(**header["bins"]) == bins and header["began_with"] == collected.stamp(root)
    except (ValueError, KeyError, zipfile.BadZipFile):
        fits = False
    if not fits:
        file.close()
    return file if fits else None


def _extent(file: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Steps and images that a checkpoint has room for."""
    header = json.loads(file["header"].tobytes())
    return tuple(header["steps"]), tuple(header["images"])


def remove(path: Path) -> None:
    """Remove the checkpoint, if there is one."""
    (path / FILE).unlink(missing_ok=True)

"""What an interrupted collection leaves in its store, to go on from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from calibzarr.collecting import archive
from calibzarr.collecting.archive import Archive
from calibzarr.errors import Call
from calibzarr.statistics.cached import CachedStatistics
from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.running import QUANTITIES, Statistics
from calibzarr.storage import collected, schema
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
        "began_with": began_with,
    }
    arrays = {
        "covered": statistics.covered,
        **statistics.arrays,
        f"{_CACHED}covered": cached.statistics.covered,
        **{_CACHED + name: array for name, array in cached.statistics.arrays.items()},
    }
    archive.write(path / FILE, header, arrays)


def read(
    root: Root, bins: LogBins, features: Sequence[int], cached_layers: Sequence[int]
) -> tuple[Statistics, CachedStatistics] | None:
    """What an interrupted collection had; None where there is none that fits the store now.

    Args:
        root: of the store.
        bins: of the histograms.
        features: width of each layer of the model.
        cached_layers: indices of those of the caching pass.

    Raises:
        StoreError: if it is damaged, or not of this store and its model.
    """
    with _opened(root, bins) as kept:
        if kept is None:
            return None
        if kept.indices("cached_layers", len(features)) != tuple(cached_layers):
            raise kept.wrong("cached_layers", f"{list(cached_layers)}, as the model has")
        of_cached = [features[layer] for layer in cached_layers]
        calls = tuple(range(root.attributes["num_steps"]))
        images, steps = _extent(kept, root)
        return (
            _statistics(kept, bins, features, steps, images),
            CachedStatistics(
                tuple(cached_layers), _statistics(kept, bins, of_cached, calls, images, _CACHED)
            ),
        )


def exists(root: Root, bins: LogBins) -> bool:
    """Whether an interrupted collection left a checkpoint that fits the store now.

    Raises:
        StoreError: if it is damaged.
    """
    with _opened(root, bins) as kept:
        return kept is not None


def coverage(root: Root, bins: LogBins, shape: tuple[int, int]) -> np.ndarray:
    """What is observed already, by an interrupted collection or the store's statistics.

    Args:
        root: of the store.
        bins: of the histograms.
        shape: numbers of images and of states.

    Returns:
        Shape (image, step), bool.

    Raises:
        StoreError: if the store's histograms have other bins, or a checkpoint is damaged.
    """
    covered = np.zeros(shape, dtype=bool)
    with _opened(root, bins) as kept:
        if kept is not None:
            images, steps = _extent(kept, root)
            known = kept.array("covered", bool, (len(images), len(steps)))
            covered[np.ix_(images, steps)] = known
        elif (extent := collected.extent(root, bins)) is not None:
            collected_steps, collected_images = extent
            covered[np.ix_(collected_images, collected_steps)] = True
    return covered


@contextmanager
def _opened(root: Root, bins: LogBins) -> Iterator[Archive | None]:
    """The checkpoint; None where there is none, or one of an older version or other statistics."""
    file, again = root.path / FILE, Call("collect", (root.path,), {"force": True})
    with archive.opened(file, archive.remedy(file, again)) as kept:
        fits = kept is not None and (
            kept.field("bins", dict) == asdict(bins)
            and kept.field("began_with", str, type(None)) == collected.stamp(root)
            and "cached_layers" in kept.header  # once not observed at every call
        )
        yield kept if fits else None


def _extent(kept: Archive, root: Root) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Images and steps of a checkpoint."""
    num_states = root.arrays[schema.LATENTS.name]["shape"][1]
    return kept.indices("images", root.num_images), kept.indices("steps", num_states)


def _statistics(
    kept: Archive,
    bins: LogBins,
    features: Sequence[int],
    steps: tuple[int, ...],
    images: tuple[int, ...],
    prefix: str = "",
) -> Statistics:
    """Statistics of layers of these widths, whose arrays' names begin with ``prefix``."""
    extents = {"bin": bins.count, "feature": max(features, default=0), "image": len(images)}
    arrays = {
        quantity.name: kept.array(
            prefix + quantity.name,
            quantity.dtype,
            quantity.shape(len(features), len(steps), extents),
        )
        for quantity in QUANTITIES
    }
    covered = kept.array(f"{prefix}covered", bool, (len(images), len(steps)))
    return Statistics(bins, steps, images, covered, arrays)


def remove(path: Path) -> None:
    """Remove the checkpoint, if there is one."""
    (path / FILE).unlink(missing_ok=True)

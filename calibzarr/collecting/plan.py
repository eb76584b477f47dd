"""What a collection will observe: planned, and checked, before a model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from calibzarr.collecting import checkpoint
from calibzarr.errors import Call, Option, OptionError, StoreError, at_least, image_range
from calibzarr.statistics.histogram import BINS
from calibzarr.statistics.steps import key_steps
from calibzarr.storage import collected, commit, objects, schema, store
from calibzarr.storage.manifest import Root, read_root, refuse_runs


@dataclass(frozen=True)
class CollectionPlan:
    """What a collection will observe, planned and checked before a model is loaded.

    Attributes:
        path: directory of the store.
        covered: what is observed already, shape (image, step), bool; by any statistics that
            this collection adds to.
        target: what is observed at the end, of the same shape; all images at all steps or none.
        batch_size: images replayed together.
        force: whether to start over.
        asked: images that were asked for.
        found: complete ones among them.
    """

    path: Path
    covered: np.ndarray
    target: np.ndarray
    batch_size: int
    force: bool
    asked: int
    found: int

    @property
    def images(self) -> np.ndarray:
        """Images that the statistics cover at the end."""
        return np.flatnonzero(self.target.any(axis=1))

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps that the statistics cover at the end."""
        return tuple(int(step) for step in np.flatnonzero(self.target.any(axis=0)))

    @property
    def replays(self) -> int:
        """Model calls to make, for one image each."""
        return int((self.target & ~self.covered).sum())

    def work(self) -> list[tuple[list[int], tuple[int, ...]]]:
        """Batches of images, each with the steps to replay them at."""
        missing = self.target & ~self.covered
        images = np.flatnonzero(missing.any(axis=1))
        batches: list[tuple[list[int], tuple[int, ...]]] = []
        for steps, group in groupby(images, lambda i: tuple(np.flatnonzero(missing[i]).tolist())):
            members = [int(image) for image in group]
            starts = range(0, len(members), self.batch_size)
            batches += [(members[start : start + self.batch_size], steps) for start in starts]
        return batches


def plan(
    path: str | Path,
    *,
    num_images: int = 100,
    images: tuple[int, int] | None = None,
    steps: str | Sequence[int] = "key",
    batch_size: int = 1,
    force: bool = False,
) -> CollectionPlan:
    """Plan what to observe; finish nothing but what a kill left half-way.

    What was observed before, in the store or by an interrupted collection, counts and stays. For
    the parameters see :func:`calibzarr.collecting.collector.collect`.
    """
    path = Path(path)
    root = read_root(path)
    refuse_runs(path, root.attributes, "collect")
    objects.check_writable(path)
    if commit.recover(path):
        root = read_root(path)
    num_states = root.arrays[schema.LATENTS.name]["shape"][1]
    complete = np.flatnonzero(store.completed(path, root.num_images))
    if not len(complete):
        raise StoreError(
            f"{path} has no complete image to replay; build some with: ",
            Call("build", (path,), {"resume": True}),
        )
    at_least("num_images", num_images, 1)
    at_least("batch_size", batch_size, 1)
    shape = root.num_images, num_states
    covered = np.zeros(shape, bool) if force else checkpoint.coverage(root, BINS, shape)
    chosen_steps = _choose_steps(steps, num_states - 1)
    before = np.flatnonzero(covered.any(axis=1))
    if images is None:
        asked, found = num_images, min(num_images, len(complete))
        chosen_images = spread(complete, before, num_images)
    else:
        chosen_images = _of_range(root, complete, images)
        asked = min(images[1], root.num_images) - images[0]
        found = len(chosen_images)
    target = np.zeros_like(covered)
    all_images = np.union1d(before, chosen_images).astype(int)
    all_steps = np.union1d(np.flatnonzero(covered.any(axis=0)), chosen_steps).astype(int)
    target[np.ix_(all_images, all_steps)] = True
    grows = schema.ACTIVATIONS in root.attributes and bool((target & ~covered).any())
    if grows and not force and not checkpoint.exists(root, BINS):
        collected.check_observed(root)
    _check_still_complete(path, complete, target & ~covered)
    return CollectionPlan(path, covered, target, batch_size, force, asked, found)


def _choose_steps(steps: str | Sequence[int], num_steps: int) -> np.ndarray:
    option = Option("steps")
    if isinstance(steps, str):
        if steps not in ("key", "all"):
            raise OptionError(option, f" must be key, all, or indices of states, got {steps!r}")
        steps = key_steps(num_steps) if steps == "key" else range(num_steps + 1)
    for step in steps:
        if not 0 <= step <= num_steps:
            raise OptionError(option, f" must be from 0 to {num_steps}, got {step}")
    if not len(steps):
        raise OptionError(option, " must name at least one state, got none")
    return np.unique(np.asarray(steps, dtype=int))


def _of_range(root: Root, complete: np.ndarray, images: tuple[int, int]) -> np.ndarray:
    """The complete images of a range."""
    chosen = np.intersect1d(complete, image_range(images, root.num_images, cut=True))
    if not len(chosen):
        raise OptionError(f"no image of {images[0]}:{images[1]} is complete in {root.path}")
    return chosen


def spread(complete: np.ndarray, before: np.ndarray, num_images: int) -> np.ndarray:
    """Images to observe beside those of before, so that all together are evenly spread.

    Args:
        complete: images that there are, increasing.
        before: images that were observed.
        num_images: how many there are to be with those of before.
    """
    count = int(np.clip(num_images - len(before), 0, len(np.setdiff1d(complete, before))))
    if not len(before):
        return np.asarray(complete[np.arange(count) * len(complete) // max(count, 1)])
    positions = np.arange(len(complete))
    known = np.append(np.flatnonzero(np.isin(complete, before)), len(complete))
    distance = np.abs(positions[:, None] - known).min(axis=1)
    chosen: list[int] = []
    for _ in range(count):  # each time the one that is farthest from all the others
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.abs(positions - chosen[-1]))
    return np.asarray(complete[np.sort(np.array(chosen, dtype=int))])


def _check_still_complete(path: Path, complete: np.ndarray, missing: np.ndarray) -> None:
    """Check that what is to be replayed, shape (image, step), is there."""
    lost = np.setdiff1d(np.flatnonzero(missing.any(axis=1)), complete)
    if len(lost):
        raise StoreError(
            f"image {lost[0]} is among the statistics of {path}, but no longer complete; build it "
            f"again with: ",
            Call("build", (path,), {"resume": True}),
            ", or start over with: ",
            Call("collect", (path,), {"force": True}),
        )

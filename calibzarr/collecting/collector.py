"""Replay stored latents under observers, and keep what they saw in the same store."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from calibzarr.collecting import checkpoint
from calibzarr.collecting.plan import CollectionPlan, plan
from calibzarr.collecting.replay import (
    Batch,
    Replay,
    adding_alone,
    cached_layers,
    check_memory,
    check_model,
)
from calibzarr.errors import StoreError, out_of_memory_named
from calibzarr.long_run import LongRun, long_run
from calibzarr.models import registry
from calibzarr.models.base import Layer, Model
from calibzarr.progress import progress_console
from calibzarr.statistics.cached import CachedStatistics
from calibzarr.statistics.histogram import BINS
from calibzarr.statistics.reduction import Reduction
from calibzarr.statistics.running import Statistics
from calibzarr.storage import collected, schema, store
from calibzarr.storage.manifest import Root, check_known, made_by, read_root

_CHECKPOINT_SHARE = 0.01  # of the time at most
_CHECKPOINT_SECONDS = 30.0, 300.0  # between checkpoints, at least and at most


@dataclass(frozen=True)
class CollectionResult:
    """How a collection ended.

    Attributes:
        path: directory of the store.
        num_layers: layers that are observed.
        num_images: images that the statistics cover.
        steps: steps that they cover.
        values: values that they are of.
        non_finite: infinities and NaN among what was seen.
        interrupted: whether the user stopped it; the statistics are then the old ones.
    """

    path: Path
    num_layers: int
    num_images: int
    steps: tuple[int, ...]
    values: int
    non_finite: int
    interrupted: bool


def collect(
    path: str | Path,
    *,
    num_images: int = 100,
    images: tuple[int, int] | None = None,
    steps: str | Sequence[int] = "key",
    batch_size: int = 1,
    force: bool = False,
    progress: bool | None = None,
) -> CollectionResult:
    """Observe stored trajectories and add the statistics to their store.

    What was observed before, in the store or by an interrupted collection, counts and stays.

    Args:
        path: directory of the store.
        num_images: how many images the statistics are to cover, those covered already among
            them; new ones are spread evenly over the complete images.
        images: first and one past the last image, exactly, instead.
        steps: ``key`` for ``steps.key_steps``, ``all``, or indices of states.
        batch_size: images replayed together; bounds the memory.
        force: start over; the old statistics stay until the new ones are complete.
        progress: whether to tell of it; if None, only on a terminal or in a notebook.

    Returns:
        How it ended. A first Ctrl-C ends it after the model call in work, and keeps what it saw.

    Raises:
        OptionError: if a value is not allowed.
        StoreError: if the store has no complete image, cannot be used, or its model's weights
            have changed.
        OSError: if it cannot be written; the old statistics stay.
    """
    planned = plan(
        path,
        num_images=num_images,
        images=images,
        steps=steps,
        batch_size=batch_size,
        force=force,
    )
    return run(planned, progress_console(progress))


def run(plan: CollectionPlan, console: Console) -> CollectionResult:
    """Observe what was planned; see :func:`collect`."""
    with adding_alone(
        plan.path,
        stays="the statistics of before stay; make room, then give the same command again",
        busy=f"another collection is at work on {plan.path}; wait for it, then add to it",
    ):
        return _run(plan, console)


def _run(plan: CollectionPlan, console: Console) -> CollectionResult:
    root = read_root(plan.path)
    if not plan.force and not np.array_equal(
        checkpoint.coverage(root, BINS, plan.covered.shape), plan.covered
    ):
        raise StoreError(f"{plan.path} was collected meanwhile; give the same command again")
    if not plan.replays and not checkpoint.exists(root, BINS):
        statistics = collected.read(root, BINS)
        if statistics is not None:
            checkpoint.remove(plan.path)  # of a collection that a kill ended after it was written
            return _result(plan, statistics, interrupted=False)
    check_known(plan.path, root.attributes)
    model = registry.load(root.attributes["model"])
    note = check_model(root, model)
    if note is not None:
        console.print(note)
    statistics, cached = _begin(plan, root, model)
    if not _replay(plan, root, model, statistics, cached, console):
        return _result(plan, statistics, interrupted=True)
    _publish(plan, model, statistics, cached)
    return _result(plan, statistics, interrupted=False)


def _begin(plan: CollectionPlan, root: Root, model: Model) -> tuple[Statistics, CachedStatistics]:
    """What is known already, in arrays for all that is to be known."""
    images, cached = plan.images.tolist(), cached_layers(model)
    features = [layer.features for layer in model.layers()]
    num_calls = root.attributes["num_steps"]
    features_of_cached = max((features[index] for index in cached), default=0)
    if plan.force:
        checkpoint.remove(plan.path)
    else:
        began = checkpoint.read(root, BINS, features, cached)
        known = began or _stored(root, cached, features_of_cached)
        if known is not None:
            return known[0].placed(plan.steps, images), known[1].placed(images)
    return (
        Statistics.empty(BINS, len(features), plan.steps, images, max(features)),
        CachedStatistics.empty(BINS, cached, num_calls, images, features_of_cached),
    )


def _stored(
    root: Root, cached: Sequence[int], features: int
) -> tuple[Statistics, CachedStatistics] | None:
    """What the store has; ``features``: the widest cached layer's width."""
    statistics = collected.read(root, BINS)
    of_cached = collected.read_cached(root, BINS, cached, features)
    return None if statistics is None or of_cached is None else (statistics, of_cached)


class _Checkpoints:
    """Keeps what a collection has so far, as often as its cost allows."""

    def __init__(self, root: Root, statistics: Statistics, cached: CachedStatistics) -> None:
        self._path, self._statistics, self._cached = root.path, statistics, cached
        self._began_with = collected.stamp(root)
        self._last, self._interval = time.monotonic(), _CHECKPOINT_SECONDS[0]

    def due(self) -> bool:
        """Whether it is time for one."""
        return time.monotonic() - self._last > self._interval

    def write(self) -> None:
        """Write one, and see how long it takes."""
        started = time.monotonic()
        checkpoint.write(self._path, self._statistics, self._cached, self._began_with)
        self._last = time.monotonic()
        least, most = _CHECKPOINT_SECONDS
        self._interval = min(max(least, (self._last - started) / _CHECKPOINT_SHARE), most)


def _replay(
    plan: CollectionPlan,
    root: Root,
    model: Model,
    statistics: Statistics,
    cached: CachedStatistics,
    console: Console,
) -> bool:
    """Replay all the work into ``statistics`` and ``cached``; return whether it is done.

    After a second Ctrl-C half a call is in the arrays, and the last checkpoint counts.
    """
    checkpoints, work = _Checkpoints(root, statistics, cached), plan.work()
    check_memory(root, model, max((len(images) for images, _ in work), default=1))
    verb = f"{len(statistics.arrays['value_count'])} layers x {len(plan.steps)} steps"
    total = sum(len(images) for images, _ in work)
    with long_run(console, verb, "image", total, stopping="after the model call in work") as long:
        ahead = [image for images, _ in work for image in images]
        replay = Replay.of(root, model, ahead, lambda: not long.stop_requested())
        for images, steps in work:
            with out_of_memory_named(len(images)):
                batch = replay.batch(images)
                observe_cached(batch, cached)
                _observe_batch(batch, steps, statistics, checkpoints, long)
            if long.interrupted:
                break
    return not long.interrupted


def _observe_batch(
    batch: Batch,
    steps: Sequence[int],
    statistics: Statistics,
    checkpoints: _Checkpoints,
    long: LongRun,
) -> None:
    """Observe a batch at its steps, or until the user wants to stop."""
    rows = np.searchsorted(statistics.images, batch.images)
    for step in steps:
        before = statistics.arrays["value_count"].sum()
        observe_step(batch, step, statistics)
        statistics.covered[rows, statistics.steps.index(step)] = True
        values = statistics.arrays["value_count"].sum() - before
        long.report.advance(len(batch.images) / len(steps), values=int(values))
        if long.stops() or checkpoints.due():
            checkpoints.write()
        if long.interrupted:
            return


def observe_cached(batch: Batch, cached: CachedStatistics) -> None:
    """Add what the layers of the caching pass see at every call, unless it is known.

    It belongs to a batch's first model call: no checkpoint has one of them without the other.
    """
    statistics = cached.statistics
    rows = np.searchsorted(statistics.images, batch.images)
    if not cached.layers or statistics.covered[rows].any():
        return

    def receive(step: int, layers: Sequence[int], reduction: Reduction) -> None:
        cached.update(layers, step, batch.images, reduction)

    batch.observe_cached(statistics.steps, statistics.bins, receive)
    statistics.covered[rows] = True


def observe_step(batch: Batch, step: int, statistics: Statistics) -> None:
    """Call the model once on stored latents, and add what its layers see to ``statistics``."""

    def receive(layers: Sequence[int], reduction: Reduction) -> None:
        statistics.update(layers, step, batch.images, reduction)

    batch.observe(step, statistics.bins, receive)


def _publish(
    plan: CollectionPlan, model: Model, statistics: Statistics, cached: CachedStatistics
) -> None:
    """Put complete statistics into the store, and remove what led to them."""
    layers = model.layers()
    activations = {
        "num_layers": len(layers),
        "num_images": len(plan.images),
        "steps": list(plan.steps),
        "batch_size": plan.batch_size,
        "bins": asdict(BINS),
        **made_by(("calibzarr", "diffusionkit", "mlx"), "collected"),
        "stamp": uuid.uuid4().hex,
        "model_fingerprint": model.fingerprint,
    }
    coordinates, weights = layer_coordinates(layers), _weights(model, layers)
    collected.replace(plan.path, statistics, coordinates, weights, activations, cached)
    checkpoint.remove(plan.path)
    store.remove_leftovers(plan.path)


def layer_coordinates(layers: Sequence[Layer]) -> dict[str, np.ndarray]:
    """Values of the coordinates about layers, by name."""
    dtypes = {variable.name: variable.dtype for variable in schema.LAYER_COORDINATES}
    return {
        name: np.array(
            [getattr(layer, "name" if name == "layer" else name) for layer in layers],
            dtype=object if dtype == "string" else dtype,
        )
        for name, dtype in dtypes.items()
    }


def _weights(model: Model, layers: Sequence[Layer]) -> dict[str, np.ndarray]:
    """Values of the variables about weights; zeros and NaN for blocks."""
    features = max(layer.features for layer in layers)
    histogram = np.zeros((len(layers), BINS.count), dtype=np.int64)
    greatest = np.full((len(layers), features), np.nan, dtype=np.float32)
    for index, layer in enumerate(layers):
        weight = model.weight(layer)
        if weight is not None:
            histogram[index] = BINS.counts(np.ascontiguousarray(weight))
            greatest[index, : layer.features] = np.abs(weight).max(axis=0)
    return {"weight_histogram": histogram, "weight_feature_max": greatest}


def _result(plan: CollectionPlan, statistics: Statistics, *, interrupted: bool) -> CollectionResult:
    return CollectionResult(
        path=plan.path,
        num_layers=len(statistics.arrays["value_count"]),
        num_images=int(statistics.covered.any(axis=1).sum()),
        steps=statistics.steps,
        values=int(statistics.arrays["value_count"].sum()),
        non_finite=int(statistics.arrays["non_finite_count"].sum()),
        interrupted=interrupted,
    )

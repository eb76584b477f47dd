"""Replay stored latents under observers, and keep what they saw in the same store."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.console import Console

from calibzarr.collecting import replay as provenance
from calibzarr.errors import OptionError, disk_full_named, out_of_memory_named
from calibzarr.long_run import graceful_stop
from calibzarr.models import registry
from calibzarr.models.base import Layer, Model, Schedule
from calibzarr.progress import Reporter, reporting
from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.reduction import Reduction
from calibzarr.statistics.running import Statistics
from calibzarr.statistics.steps import key_steps
from calibzarr.storage import collected, durable, objects, reading, schema, store
from calibzarr.storage.manifest import read_root

BINS = LogBins()

_CHECKPOINT_SHARE = 0.01  # of the time at most
_CHECKPOINT_SECONDS = 30.0, 300.0  # between checkpoints, at least and at most


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
        batches = []
        for steps, group in groupby(images, lambda i: tuple(np.flatnonzero(missing[i]).tolist())):
            members = [int(image) for image in group]
            for first in range(0, len(members), self.batch_size):
                batches.append((members[first : first + self.batch_size], steps))
        return batches


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


def plan(
    path: str | Path,
    *,
    num_images: int = 100,
    images: tuple[int, int] | None = None,
    steps: str | Sequence[int] = "key",
    batch_size: int = 1,
    force: bool = False,
) -> CollectionPlan:
    """Settle what to observe; load and write nothing but statistics that a kill left half-way.

    What was observed before, in the store or by an interrupted collection, counts and stays.

    Args:
        path: directory of the store.
        num_images: how many images the statistics are to cover, those covered already among
            them; new ones are spread evenly over the complete images.
        images: first and one past the last image, exactly, instead.
        steps: ``key`` for ``schedule.key_steps``, ``all``, or indices of states.
        batch_size: images replayed together; bounds the memory.
        force: start over; the old statistics stay until the new ones are complete.

    Raises:
        OptionError: if a value is not allowed.
        ValueError: if the store has no complete image, or cannot be used.
        OSError: if it cannot be read or written.
    """
    path = Path(path)
    manifest = read_root(path).attributes
    objects.check_writable(path)
    collected.install(path)
    dataset = reading.open_store(path)
    complete = np.flatnonzero(dataset[schema.COMPLETE.name])
    if not len(complete):
        raise ValueError(
            f"{path} has no complete image to replay; build some with: calibzarr build {path} "
            f"--resume"
        )
    for name, value in (("num_images", num_images), ("batch_size", batch_size)):
        if value < 1:
            raise OptionError(f"{name} must be 1 or more, got {value}")
    shape = dataset.sizes["image"], dataset.sizes["step"]
    covered = np.zeros(shape, bool) if force else collected.coverage(path, BINS, shape)
    wanted_steps = _settle_steps(steps, manifest["num_steps"])
    before = np.flatnonzero(covered.any(axis=1))
    if images is None:
        asked, found = num_images, min(num_images, len(complete))
        wanted_images = np.union1d(before, _spread(complete, before, num_images))
    else:
        first, end = images
        if not 0 <= first < end <= len(covered):
            raise OptionError(
                f"images must be A:B with 0 <= A < B <= {len(covered)}, got {first}:{end}"
            )
        chosen = complete[(complete >= first) & (complete < end)]
        if not len(chosen):
            raise OptionError(f"no image of {first}:{end} is complete in {path}")
        asked, found = end - first, len(chosen)
        wanted_images = np.union1d(before, chosen)
    target = np.zeros_like(covered)
    all_steps = np.union1d(np.flatnonzero(covered.any(axis=0)), wanted_steps)
    target[np.ix_(wanted_images.astype(int), all_steps.astype(int))] = True
    lost = np.setdiff1d(np.flatnonzero((target & ~covered).any(axis=1)), complete)
    if len(lost):
        raise ValueError(
            f"image {lost[0]} is among the statistics of {path}, but no longer complete; build "
            f"it again by --resume, or start over with: calibzarr collect {path} --force"
        )
    return CollectionPlan(path, covered, target, batch_size, force, asked, found)


def _settle_steps(steps: str | Sequence[int], num_steps: int) -> np.ndarray:
    if isinstance(steps, str):
        if steps not in ("key", "all"):
            raise OptionError(f"steps must be key, all, or indices of states, got {steps!r}")
        steps = key_steps(num_steps) if steps == "key" else range(num_steps + 1)
    for step in steps:
        if not 0 <= step <= num_steps:
            raise OptionError(f"steps must be from 0 to {num_steps}, got {step}")
    if not len(steps):
        raise OptionError("steps must name at least one state, got none")
    return np.unique(np.asarray(steps, dtype=int))


def _spread(complete: np.ndarray, before: np.ndarray, num_images: int) -> np.ndarray:
    """Images to observe beside those of before, so that all together are evenly spread."""
    count = int(np.clip(num_images - len(before), 0, len(np.setdiff1d(complete, before))))
    if not len(before):
        return complete[np.arange(count) * len(complete) // max(count, 1)]
    places = np.arange(len(complete))
    known = np.append(np.flatnonzero(np.isin(complete, before)), len(complete))
    distance = np.abs(places[:, None] - known).min(axis=1)
    chosen = []
    for _ in range(count):  # each time the one that is farthest from all the others
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.abs(places - chosen[-1]))
    return complete[np.sort(np.array(chosen, dtype=int))]


def collect(
    path: str | Path, *, console: Console | None = None, **options: object
) -> CollectionResult:
    """Observe stored trajectories and add the statistics to their store.

    Args:
        path: directory of the store.
        console: where to report progress; silent if not given.
        **options: as those of :func:`plan`.

    Returns:
        How it ended. A first Ctrl-C ends it after the model call in work, and keeps what it saw.

    Raises:
        OptionError: if a value is not allowed.
        ValueError: if the store cannot be used, or its model's weights have changed.
        OSError: if it cannot be written; the old statistics stay.
    """
    return run(plan(path, **options), console or Console(quiet=True))  # type: ignore[arg-type]


def run(plan: CollectionPlan, console: Console) -> CollectionResult:
    """Observe what was planned; see :func:`collect`."""

    def what_is_left() -> str:
        return "the statistics of before stay; make room, then give the same command again"

    try:
        with (
            disk_full_named(what_is_left),
            durable.locked(plan.path / schema.LATENTS.name, wait=False),
        ):
            return _run(plan, console)
    except BlockingIOError:
        raise BlockingIOError(
            f"another collection is at work on {plan.path}; wait for it, then add to it"
        ) from None


def _run(plan: CollectionPlan, console: Console) -> CollectionResult:
    path = plan.path
    manifest = read_root(path).attributes
    if not plan.force and not np.array_equal(
        collected.coverage(path, BINS, plan.covered.shape), plan.covered
    ):
        raise ValueError(f"{path} was collected meanwhile; give the same command again")
    if not plan.replays and not collected.has_checkpoint(path, BINS):
        statistics = collected.read(path, BINS)
        if statistics is not None:
            return _result(plan, statistics, interrupted=False)
    provenance.check_known(path, manifest)
    model = registry.load(manifest["model"])
    note = provenance.check_model(path, manifest, model)
    if note is not None:
        console.print(note)
    layers = model.layers()
    statistics = _begin(plan, layers)
    if not _replay(plan, statistics, model, layers, console):
        return _result(plan, statistics, interrupted=True)
    activations = {
        "num_layers": len(layers),
        "num_images": len(plan.images),
        "steps": list(plan.steps),
        "batch_size": plan.batch_size,
        "bins": asdict(BINS),
        "libraries": {name: version(name) for name in ("calibzarr", "diffusionkit", "mlx")},
        "collected": datetime.now(UTC).isoformat(timespec="seconds"),
        "stamp": uuid.uuid4().hex,
        "model_fingerprint": model.fingerprint,
    }
    collected.replace(
        path, statistics, layer_coordinates(layers), _weights(model, layers), activations
    )
    collected.remove_checkpoint(path)
    store.remove_leftovers(path)
    return _result(plan, statistics, interrupted=False)


def _begin(plan: CollectionPlan, layers: Sequence[Layer]) -> Statistics:
    """What is known already, in arrays for all that is to be known."""
    known = None
    if plan.force:
        collected.remove_checkpoint(plan.path)
    else:
        known = collected.read_checkpoint(plan.path, BINS)
        known = known or collected.read(plan.path, BINS)
    if known is not None:
        return known.placed(plan.steps, plan.images.tolist())
    return Statistics.empty(
        BINS,
        len(layers),
        plan.steps,
        plan.images.tolist(),
        features=max(layer.features for layer in layers),
    )


def _replay(
    plan: CollectionPlan,
    statistics: Statistics,
    model: Model,
    layers: Sequence[Layer],
    console: Console,
) -> bool:
    """Replay all the work into ``statistics``; return whether it is done."""
    dataset = reading.open_store(plan.path)
    all_prompts, _ = store.stored_prompts(plan.path)
    manifest = read_root(plan.path).attributes
    cfg_weight = manifest["cfg_weight"]
    schedule = model.schedule(manifest["num_steps"])
    work = plan.work()
    to_replay = sum(len(images) for images, _ in work)
    began_with = collected.stamp(plan.path)
    least, most = _CHECKPOINT_SECONDS
    last, interval = time.monotonic(), least
    verb = f"{len(layers)} layers x {len(plan.steps)} steps"

    def tell() -> None:
        console.print("stopping after the model call in work; Ctrl-C again to stop now")

    def checkpoint() -> None:
        nonlocal last, interval
        started = time.monotonic()
        collected.write_checkpoint(plan.path, statistics, began_with)
        last = time.monotonic()
        interval = min(max(least, (last - started) / _CHECKPOINT_SHARE), most)

    def replay(images: list[int], steps: Sequence[int], report: Reporter) -> bool:
        """Replay a batch; return whether the user stopped it."""
        latents = dataset.latents.isel(image=images).values
        conditioning = model.encode([all_prompts[image] for image in images], cfg_weight)
        rows = np.searchsorted(statistics.images, images)
        for step in steps:
            x = model.from_numpy(latents[:, step])
            before = statistics.arrays["value_count"].sum()
            replay_step(model, x, conditioning, schedule, step, images, statistics)
            statistics.covered[rows, plan.steps.index(step)] = True
            values = statistics.arrays["value_count"].sum() - before
            report.advance(len(images) / len(steps), values=int(values))
            if stop_requested() or time.monotonic() - last > interval:
                checkpoint()
            if stop_requested():
                return True
        return False

    with (
        reporting(console, verb, "image", to_replay) as report,
        graceful_stop(tell) as stop_requested,
    ):
        try:
            for images, steps in work:
                with out_of_memory_named(len(images)):
                    if replay(images, steps, report):
                        return False
        except KeyboardInterrupt:  # half a call is in the arrays: the last checkpoint counts
            return False
    return True


def replay_step(
    model: Model,
    x: object,
    conditioning: object,
    schedule: Schedule,
    step: int,
    images: Sequence[int],
    statistics: Statistics,
) -> None:
    """Call the model once on stored latents, and add what its layers see to ``statistics``."""

    def receive(layers: Sequence[int], reduction: Reduction) -> None:
        statistics.update(layers, step, images, reduction)

    with (
        model.observing(len(images), statistics.bins, receive),
        model.denoiser(conditioning, schedule, steps=[step]) as denoise,
    ):
        denoise(x, step)


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


def _result(plan: CollectionPlan, statistics: Statistics, interrupted: bool) -> CollectionResult:
    return CollectionResult(
        path=plan.path,
        num_layers=len(statistics.arrays["value_count"]),
        num_images=int(statistics.covered.any(axis=1).sum()),
        steps=statistics.steps,
        values=int(statistics.arrays["value_count"].sum()),
        non_finite=int(statistics.arrays["non_finite_count"].sum()),
        interrupted=interrupted,
    )

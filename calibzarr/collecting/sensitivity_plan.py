"""What a measurement of sensitivities will do: planned, and checked, before a model is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from calibzarr.collecting import measurement
from calibzarr.collecting.measurement import Measurement
from calibzarr.collecting.plan import spread
from calibzarr.errors import Call, Message, Option, OptionError, StoreError, at_least
from calibzarr.quantization.choices import CLIPS, Clip
from calibzarr.quantization.clipping import clipping_range
from calibzarr.quantization.histograms import Histograms
from calibzarr.quantization.levels import BITS
from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.steps import key_steps, phases
from calibzarr.storage import commit, reading, schema
from calibzarr.storage.manifest import Root, read_root, refuse_runs

DEFAULT_STEPS = 6
DEFAULT_IMAGES = 8
_AMPLIFIED = (0, 0.3, 0.6, 0.8, 0.9, 0.96)  # of the calls
_NUM_AMPLIFIED = 2  # images


@dataclass(frozen=True)
class SensitivityPlan:
    """What a measurement will do.

    Attributes:
        path: directory of the store.
        root: its metadata when the plan was made.
        start: what is measured already, with room for all that is to be.
        batch_size: images of one backward pass.
        force: whether to start over.
        about: how it is measured, JSON types only; what must be equal for adding to it.
        notes: what the user should know.
    """

    path: Path
    root: Root
    start: Measurement
    batch_size: int
    force: bool
    about: Mapping[str, Any]
    notes: tuple[Message, ...]

    @property
    def seed(self) -> int:
        """What probes come from, with the image, the step and their number."""
        return int(self.root.attributes.get("seed") or 0)

    @property
    def identity(self) -> dict[str, Any]:
        """What tells a checkpoint that this measurement can go on with."""
        return identity(self.about, self.root.attributes)

    @property
    def passes(self) -> int:
        """Backward passes to make, of one image with one probe each."""
        return int((~self.start.measured()).sum())


def default_steps(num_steps: int) -> tuple[int, ...]:
    """The calls at one and three quarters of each phase; all where there are not more.

    >>> default_steps(50)
    (4, 12, 20, 29, 38, 46)
    """
    if num_steps <= DEFAULT_STEPS:
        return tuple(range(num_steps))
    calls = [range(phase.start, min(phase.stop, num_steps)) for phase in phases(num_steps).values()]
    quarters = [phase[len(phase) * quarter // 4] for phase in calls for quarter in (1, 3)]
    return tuple(sorted(set(quarters)))


def amplified_steps(num_steps: int) -> tuple[int, ...]:
    """Calls whose amplification is measured; that of the last is known.

    >>> amplified_steps(50)
    (0, 15, 30, 40, 45, 48)
    """
    chosen = {int(fraction * num_steps) for fraction in _AMPLIFIED}
    return tuple(sorted(call for call in chosen if call < num_steps - 1))


def plan(
    path: str | Path,
    *,
    images: int = DEFAULT_IMAGES,
    probes: int = 4,
    steps: int | str | Sequence[int] = DEFAULT_STEPS,
    clip: Clip = "lp",
    batch_size: int = 1,
    force: bool = False,
) -> SensitivityPlan:
    """Decide what to measure; load no model, and write nothing.

    What was measured before, in the store or by an interrupted measurement, counts and stays.

    Args:
        path: directory of the store.
        images: how many images to measure with, those of before among them; new ones are spread
            evenly over the collected ones that are complete.
        probes: random sums of the output, for each image at each step.
        steps: 6 for two calls of each phase, ``key`` for ``steps.key_steps`` without the final
            state, or indices of calls.
        clip: how the ranges of activations are chosen.
        batch_size: images of one backward pass; bounds the memory.
        force: start over; the old sensitivities stay until the new ones are complete.

    Raises:
        OptionError: if a value is not allowed.
        StoreError: if the store cannot be used, or was measured otherwise.
        OSError: if it cannot be read.
    """
    path = Path(path)
    for name, value in (("images", images), ("probes", probes), ("batch_size", batch_size)):
        at_least(name, value, 1)
    if clip not in CLIPS:
        raise OptionError(Option("clip"), f" must be one of {', '.join(CLIPS)}, got {clip!r}")
    root = _open(path)
    manifest, collected = root.attributes, root.attributes[schema.ACTIVATIONS]
    chosen = _choose_steps(steps, manifest["num_steps"])
    about = {
        "clip": clip,
        "steps": list(chosen),
        "model_fingerprint": collected["model_fingerprint"],
    }
    notes: list[Message] = []
    before = None if force else _before(root, about, notes)
    about.setdefault("statistics", collected["stamp"])
    if before is None:
        selected = _choose_images(root, images, ())
        start = Measurement.empty(
            selected,
            chosen,
            probes,
            _ranges(root, clip),
            amplified_steps(manifest["num_steps"]),
            min(_NUM_AMPLIFIED, len(selected)),
        )
    else:
        selected = _choose_images(root, images, before.images)
        start = before.grown(selected, max(probes, before.products.shape[-1]))
    if len(selected) < images != DEFAULT_IMAGES:
        notes.append(Message(f"{images} images were asked for, {len(selected)} are collected"))
    return SensitivityPlan(path, root, start, batch_size, force, about, tuple(notes))


def _open(path: Path) -> Root:
    """The metadata of a store with statistics, after what a kill left half-way is in its place."""
    commit.recover(path)
    root = read_root(path)
    refuse_runs(path, root.attributes, "sensitivity")
    if schema.ACTIVATIONS not in root.attributes:
        raise StoreError(
            f"{path} has no statistics, which the ranges of activations come from; make them "
            "with: ",
            Call("collect", (path,)),
        )
    return root


def identity(about: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint must be of: how it is measured, and the measurement that it adds to."""
    stored = manifest.get(schema.SENSITIVITY)
    return {**about, "adds_to": stored and stored["stamp"]}


def _said(name: str, wanted: object) -> dict[str, object]:
    """The option that was given, for a call that says it again."""
    return {name: wanted} if name in ("clip", "steps") else {}


def _before(root: Root, about: dict[str, Any], notes: list[Message]) -> Measurement | None:
    """What is measured already, if it can be added to; sets the statistics that it is based on."""
    path, manifest = root.path, root.attributes
    again = Call("sensitivity", (path,), {"force": True})
    stored = manifest.get(schema.SENSITIVITY)
    collected = manifest[schema.ACTIVATIONS]
    if stored is not None:
        for name, wanted in about.items():
            if stored[name] != wanted:
                raise StoreError(
                    f"{path} has sensitivities with {name} {stored[name]!r}, which cannot be added "
                    f"to with {wanted!r}; measure anew with: ",
                    replace(again, keywords={**_said(name, wanted), **again.keywords}),
                )
        about["statistics"] = stored["statistics"]
        if stored["statistics"] != collected["stamp"]:
            notes.append(
                Message(
                    f"{path} has newer statistics than its sensitivities, whose ranges are kept; "
                    "measure anew with: ",
                    again,
                )
            )
        began = measurement.read_checkpoint(root, identity(about, manifest))
        return began or measurement.read(path, stored)
    about["statistics"] = collected["stamp"]
    return measurement.read_checkpoint(root, identity(about, manifest))


def _choose_steps(steps: int | str | Sequence[int], num_steps: int) -> tuple[int, ...]:
    if isinstance(steps, int):
        if steps != DEFAULT_STEPS:
            raise OptionError(
                Option("steps"), f" must be {DEFAULT_STEPS}, key, or a list of calls, got {steps}"
            )
        return default_steps(num_steps)
    if isinstance(steps, str):
        if steps != "key":
            raise OptionError(
                Option("steps"), f" must be {DEFAULT_STEPS}, key, or a list of calls, got {steps!r}"
            )
        return tuple(step for step in key_steps(num_steps) if step < num_steps)
    for step in steps:
        if not 0 <= step < num_steps:
            final = "; the final state is no call" if step == num_steps else ""
            raise OptionError(
                Option("steps"), f" must be calls from 0 to {num_steps - 1}, got {step}{final}"
            )
    if not len(steps):
        raise OptionError(Option("steps"), " must name at least one call, got none")
    return tuple(sorted({int(step) for step in steps}))


def _choose_images(root: Root, count: int, before: Sequence[int]) -> tuple[int, ...]:
    """Indices of images: those of before, then new ones."""
    dataset = reading.open_store(root)
    usable = np.flatnonzero(
        dataset[schema.COMPLETE.name].values & dataset[schema.COLLECTED_IMAGE.name].values
    )
    if not len(usable):
        raise StoreError(
            f"none of the images that the statistics of {root.path} cover is complete; build them "
            "again with: ",
            Call("build", (root.path,), {"resume": True}),
        )
    return (*before, *spread(usable, np.array(before, dtype=int), count).tolist())


def _ranges(root: Root, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the ranges of activations by tensor, each of shape (layer, bits)."""
    statistics = reading.open_statistics(root)
    calls = statistics.isel(step=statistics.step.values < root.attributes["num_steps"])
    if not calls.sizes["step"]:
        raise StoreError(
            f"{root.path} has statistics of the final state alone, which is no call; add others "
            "with: ",
            Call("collect", (root.path,)),
        )
    counts = calls.histogram.sum("step").values
    least = np.fmin.reduce(calls.value_min.values, axis=1)
    greatest = np.fmax.reduce(calls.value_max.values, axis=1)
    rows = np.flatnonzero(statistics.cached_observed.values.any(axis=1))
    if len(rows):  # of the caching pass, at the other calls
        cached = statistics.isel(layer=rows)
        counts[rows] += cached.cached_histogram.sum("cached_step").values
        of_cached = np.fmin.reduce(cached.cached_value_min.values, axis=1)
        least[rows] = np.fmin(least[rows], of_cached)
        of_cached = np.fmax.reduce(cached.cached_value_max.values, axis=1)
        greatest[rows] = np.fmax(greatest[rows], of_cached)
    bins = LogBins(**statistics.attrs[schema.ACTIVATIONS]["bins"])
    histograms = Histograms.of_counts(counts, bins, least, greatest)
    low, high = clipping_range(clip, histograms, BITS)
    return low.astype(np.float32), high.astype(np.float32)

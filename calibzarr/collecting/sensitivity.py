"""What quantizing each layer alone does to the guided output, by backward passes."""

import math
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from calibzarr.collecting import measurement, sensitivity_plan
from calibzarr.collecting.amplification import rollout, rollout_calls
from calibzarr.collecting.measurement import Measurement
from calibzarr.collecting.replay import Batch, Replay, adding_alone, check_memory, check_model
from calibzarr.collecting.sensitivity_plan import DEFAULT_IMAGES, DEFAULT_STEPS, SensitivityPlan
from calibzarr.errors import StoreError, out_of_memory_named
from calibzarr.long_run import LongRun, long_run
from calibzarr.models import registry
from calibzarr.models.base import DifferentiableModel
from calibzarr.progress import progress_console
from calibzarr.quantization.choices import Clip
from calibzarr.quantization.quantizers import QuantizationErrors
from calibzarr.quantization.sensitivity import over_steps
from calibzarr.quantization.sensitivity import sensitivity as derive
from calibzarr.storage import schema, store
from calibzarr.storage.manifest import check_known, made_by

_CHECKPOINT_SECONDS = 30.0
CALLS_IN_MEMORY = 4  # that a backward pass takes the memory of, for each probe; measured
CALLS_OF_A_PASS = 3  # about what a backward pass costs, for the progress


@dataclass(frozen=True)
class SensitivityResult:
    """How a measurement ended.

    Attributes:
        path: directory of the store.
        num_layers: linear layers that were measured.
        num_images: images that they were measured with.
        num_probes: probes of each image at each step.
        steps: calls that they were measured at.
        worst_error_db: greatest standard error of a layer over all steps, dB; NaN if interrupted,
            or of one image with one probe.
        interrupted: whether the user stopped it; what it measured is kept for the next time.
    """

    path: Path
    num_layers: int
    num_images: int
    num_probes: int
    steps: tuple[int, ...]
    worst_error_db: float
    interrupted: bool


def sensitivity(
    path: str | Path,
    *,
    images: int = DEFAULT_IMAGES,
    probes: int = 4,
    steps: int | str | Sequence[int] = DEFAULT_STEPS,
    clip: Clip = "lp",
    batch_size: int = 1,
    force: bool = False,
    progress: bool | None = None,
) -> SensitivityResult:
    """Measure what quantizing each layer alone does, and add it to the store.

    For random sums of the guided output, one backward pass gives the first-order effect of every
    quantizer on every layer's inputs and weight; see :mod:`calibzarr.quantization.sensitivity`.

    Args:
        path: directory of a store with statistics.
        images: how many of its images to measure with.
        probes: random sums for each image at each step.
        steps: 6 for two calls of each phase, ``key``, or indices of calls.
        clip: how the ranges of activations are chosen.
        batch_size: images of one backward pass.
        force: start over.
        progress: whether to show it; if None, only on a terminal or in a notebook.

    Returns:
        How it ended. A first Ctrl-C ends it after the pass in work, and keeps what it measured.

    Raises:
        OptionError: if a value is not allowed.
        StoreError: if the store cannot be used, or its model's weights have changed.
        OSError: if it cannot be written; what the store has stays.
    """
    plan = sensitivity_plan.plan(
        path,
        images=images,
        probes=probes,
        steps=steps,
        clip=clip,
        batch_size=batch_size,
        force=force,
    )
    return run(plan, progress_console(progress))


def run(plan: SensitivityPlan, console: Console) -> SensitivityResult:
    """Measure what was planned; see :func:`sensitivity`."""
    with adding_alone(
        plan.path,
        stays="what was measured before stays; make room, then go on",
        busy=f"another collection or measurement is at work on {plan.path}; wait for it",
    ):
        return _run(plan, console)


def _run(plan: SensitivityPlan, console: Console) -> SensitivityResult:
    found = plan.start
    if found.complete and not plan.force and _is_written(plan):
        measurement.remove_checkpoint(plan.path)
        return _result(plan, found, interrupted=False)
    check_known(plan.path, plan.root.attributes)
    model = registry.load(plan.root.attributes["model"])
    if not isinstance(model, DifferentiableModel):
        raise StoreError(f"the layers of {model.name} cannot be measured: it gives no gradients")
    note = check_model(plan.root, model)
    if note is not None:
        console.print(note)
    if plan.force:
        measurement.remove_checkpoint(plan.path)
    images, probes = min(plan.batch_size, len(found.images)), found.products.shape[-1]
    check_memory(plan.root, model, images, times=CALLS_IN_MEMORY * probes)
    calls = CALLS_OF_A_PASS * plan.passes + _rollout_calls(plan)
    with (
        long_run(console, "sensitivity", "call", calls, stopping="after the pass in work") as run,
        out_of_memory_named(plan.batch_size),
    ):
        _Session(plan, model, run).measure()
    if run.interrupted:
        return _result(plan, found, interrupted=True)
    about = {
        **plan.about,
        "num_images": len(found.images),
        "num_probes": found.products.shape[-1],
        **made_by(("calibzarr", "diffusionkit", "mlx"), "measured"),
        "stamp": uuid.uuid4().hex,
    }
    measurement.write(plan.path, found, about)
    measurement.remove_checkpoint(plan.path)
    store.remove_leftovers(plan.path)
    return _result(plan, found, interrupted=False)


def _is_written(plan: SensitivityPlan) -> bool:
    """Whether the store has all that is to be measured; a checkpoint may have more than it."""
    stored = plan.root.attributes.get(schema.SENSITIVITY, {})
    wanted = len(plan.start.images), plan.start.products.shape[-1]
    return (stored.get("num_images"), stored.get("num_probes")) == wanted


class _Session:
    """A loaded model at work on the missing parts of a measurement."""

    def __init__(self, plan: SensitivityPlan, model: DifferentiableModel, run: LongRun) -> None:
        self._plan = plan
        self._found = plan.start  # its arrays are filled
        self._model = model
        self._run = run
        self._replay = Replay.of(
            plan.root, model, plan.start.images, lambda: not run.stop_requested()
        )
        self._batch: Batch | None = None  # the last one that was read
        self._saved = time.monotonic()

    def measure(self) -> None:
        """Make all passes and rollouts that are missing, until the user asks to stop."""
        found = self._found
        errors = QuantizationErrors(*found.ranges)
        for members, position, probes in _passes(found, self._plan.batch_size):
            self._differentiate(members, position, probes, errors)
            self._run.report.advance(CALLS_OF_A_PASS * len(members) * len(probes))
            if self._stops():
                return
        for position, member in np.argwhere(np.isnan(found.amplified)).tolist():
            step = found.amplified_steps[position]
            outcome = rollout(self._model, self._read([member]), step, found.ranges)
            found.amplified[position, member], found.decoder_gain_db[position, member] = outcome
            self._run.report.advance(rollout_calls(self._replay.schedule.num_steps, step))
            if self._stops():
                return

    def _differentiate(
        self, members: list[int], position: int, probes: list[int], errors: QuantizationErrors
    ) -> None:
        """Make the passes of some images and probes at one step."""
        found, step, batch = self._found, self._found.steps[position], self._read(members)
        states = batch.latents[:, step]
        signs = [
            [probe_signs(self._plan.seed, image, step, probe, states.shape[1:]) for probe in probes]
            for image in batch.images
        ]
        products, power = self._model.signed_products(
            self._model.from_numpy(states),
            batch.conditioning,
            batch.schedule,
            step,
            np.array(signs),
            errors,
        )
        rows = np.array(members)[:, None], np.array(probes)
        found.products[:, position, :, *rows] = products.transpose(2, 3, 0, 1)
        found.power[position, members] = power

    def _read(self, members: list[int]) -> Batch:
        images = [self._found.images[member] for member in members]
        if self._batch is None or self._batch.images != tuple(images):
            self._batch = self._replay.batch(images)
        return self._batch

    def _stops(self) -> bool:
        """Keep a checkpoint now and then, and when the user asks to stop."""
        if self._run.stops() or time.monotonic() - self._saved > _CHECKPOINT_SECONDS:
            measurement.write_checkpoint(self._plan.path, self._found, self._plan.identity)
            self._saved = time.monotonic()
        return self._run.interrupted


def _passes(found: Measurement, batch_size: int) -> Iterator[tuple[list[int], int, list[int]]]:
    """Places of images, of a step and of probes whose passes are missing, batch by batch."""
    missing = ~found.measured()
    members = list(range(len(found.images)))
    for first in range(0, len(members), batch_size):
        for index in range(len(found.steps)):
            batch = [m for m in members[first : first + batch_size] if missing[index, m].any()]
            while batch:  # those that lack the same probes together
                wanted = missing[index, batch[0]]
                together = [m for m in batch if (missing[index, m] == wanted).all()]
                yield together, index, np.flatnonzero(wanted).tolist()
                batch = [m for m in batch if m not in together]


def probe_signs(seed: int, image: int, step: int, probe: int, shape: Sequence[int]) -> np.ndarray:
    """A random probe of the output: 1 and -1, whatever the order and the batch.

    Probe 0 is the same at every step, so that its products at two steps tell how the errors that
    are made there go together.

    Args:
        seed: of the store.
        image: index of the image.
        step: index of the call.
        probe: number of the probe.
        shape: (channel, height, width).

    Returns:
        float32.
    """
    entropy = [seed, image, step if probe else 0, probe]
    bits = np.random.default_rng(np.random.SeedSequence(entropy)).integers(0, 2, tuple(shape))
    return (2 * bits - 1).astype(np.float32)


def _rollout_calls(plan: SensitivityPlan) -> int:
    missing = np.isnan(plan.start.amplified).sum(axis=1).tolist()
    return sum(
        count * rollout_calls(plan.root.attributes["num_steps"], step)
        for count, step in zip(missing, plan.start.amplified_steps, strict=True)
    )


def _result(plan: SensitivityPlan, found: Measurement, *, interrupted: bool) -> SensitivityResult:
    known = ~np.isnan(found.products).all(axis=(1, 2, 3, 4))
    worst = math.nan if interrupted else _worst_error_db(found, known)
    return SensitivityResult(
        path=plan.path,
        num_layers=int(known.sum()),
        num_images=len(found.images),
        num_probes=found.products.shape[-1],
        steps=found.steps,
        worst_error_db=worst,
        interrupted=interrupted,
    )


def _worst_error_db(found: Measurement, known: np.ndarray) -> float:
    by_step = derive(found.products, found.power)
    total = over_steps(by_step, found.power.mean(axis=1))
    return float(np.fmax.reduce(total.error_db[known], axis=None, initial=np.nan))

"""From prompts to trajectories in a store, resumable at any moment."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from calibzarr.errors import Call, Message, disk_full_named, out_of_memory_named
from calibzarr.long_run import graceful_stop
from calibzarr.models import registry
from calibzarr.models.base import Model, Schedule
from calibzarr.progress import Reporter, reporting
from calibzarr.sampling.plan import BuildPlan, plan, refuse_differences
from calibzarr.sampling.sampler import euler_states
from calibzarr.storage import collected, schema, store
from calibzarr.storage.manifest import prompts_sha256, read_root

_LIBRARIES = ("calibzarr", "diffusionkit", "mlx", "numpy", "xarray", "zarr")


@dataclass(frozen=True)
class BuildResult:
    """How a build ended.

    Attributes:
        path: directory of the store.
        num_images: images of the whole store.
        n_completed: images complete in it.
        built: images that became complete in this run's time.
        interrupted: whether the user stopped it.
    """

    path: Path
    num_images: int
    n_completed: int
    built: int
    interrupted: bool


def build(
    path: str | Path | None = None, *, console: Console | None = None, **options: Any
) -> BuildResult:
    """Build a calibration dataset: sample every prompt and store every state.

    Args:
        path: directory of the store.
        console: where to report progress; silent if not given.
        **options: as those of :func:`calibzarr.sampling.plan.plan`.

    Returns:
        How it ended. A first Ctrl-C ends it after the images in work.

    Raises:
        OptionError: if a value is not allowed, or differs from that of the store to resume.
        ValueError: if the prompt file or the store cannot be used.
        OSError: if the disk is full or cannot be written; complete images stay.
    """
    return run(plan(path, **options), console or Console(quiet=True))


def run(plan: BuildPlan, console: Console) -> BuildResult:
    """Build what was planned; see :func:`build`."""
    missing = plan.missing()
    grows = plan.exists and len(store.stored_prompts(plan.path)[0]) < plan.num_images
    before = int(plan.complete().sum())
    interrupted = False

    def what_is_left() -> str | Message:
        if not plan.path.exists():
            return "nothing was created; make room, then give the same command again"
        done = int(store.completed(plan.path, plan.num_images).sum())
        stay = f"{done} of {plan.num_images} images are complete and stay; make room, then: "
        return Message(stay, resume_call(plan))

    with disk_full_named(what_is_left):
        if missing or grows:
            model = registry.load(plan.entry.name)
            schedule = model.schedule(plan.sizes.num_steps)
            _prepare_store(plan, model, schedule)
            interrupted = _sample(plan, missing, model, schedule, console)
        if plan.exists:
            store.remove_leftovers(plan.path)
        complete = store.completed(plan.path, plan.num_images)
        if complete.all():
            store.finish(plan.path)
    return BuildResult(
        path=plan.path,
        num_images=plan.num_images,
        n_completed=int(complete.sum()),
        built=int(complete.sum()) - before,
        interrupted=interrupted,
    )


def resume_call(plan: BuildPlan) -> Call:
    """The call that goes on with a build."""
    chosen = plan.images
    images = {} if len(chosen) == plan.num_images else {"images": (chosen.start, chosen.stop)}
    return Call("build", (plan.path,), {"resume": True, **images})


def _prepare_store(plan: BuildPlan, model: Model, schedule: Schedule) -> None:
    """Create the store, or check that it goes on as it was begun and let it grow."""
    attributes = _manifest(plan, model)
    if not plan.exists:
        coordinates = {
            schema.SIGMA.name: schedule.sigma,
            schema.TIMESTEP.name: schedule.timestep,
            schema.FINAL.name: np.arange(schedule.num_steps + 1) == schedule.num_steps,
            schema.PROMPT.name: np.asarray(plan.prompts, dtype=object),
            schema.SEED.name: np.asarray(plan.seeds, dtype=np.int64),
        }
        try:
            store.create(plan.path, plan.sizes, coordinates, attributes)
            return
        except FileExistsError:  # another builder was faster
            pass
    stored = read_root(plan.path).attributes
    refuse_differences(plan.path, stored, {k: attributes[k] for k in schema.FINGERPRINT})
    if len(store.stored_prompts(plan.path)[0]) < plan.num_images:
        changing = ("num_images", "prompts_sha256", "prompt_source")
        new = {name: attributes[name] for name in changing}
        collected.install(plan.path)
        store.extend(plan.path, plan.prompts, plan.seeds, new)


def _manifest(plan: BuildPlan, model: Model) -> dict[str, Any]:
    return {
        "model": plan.entry.name,
        "model_fingerprint": model.fingerprint,
        "num_images": plan.num_images,
        "num_steps": plan.sizes.num_steps,
        "cfg_weight": plan.cfg_weight,
        "image_size": plan.sizes.image_size,
        "latent_dtype": plan.latent_dtype,
        "activation_dtype": model.activation_dtype,
        "sampler": model.sampler,
        "seed": plan.seed,
        "batch_size": plan.batch_size,
        "prompts_sha256": prompts_sha256(plan.prompts),
        "prompt_source": plan.prompt_source,
        "libraries": {name: version(name) for name in _LIBRARIES},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "n_completed": 0,
    }


def _sample(
    plan: BuildPlan, missing: Sequence[int], model: Model, schedule: Schedule, console: Console
) -> bool:
    """Sample the missing images group by group; return whether the user stopped it."""
    writer = store.ImageWriter(plan.path)
    size = plan.batch_size
    groups = [
        [image for image in missing if image // size == group]
        for group in sorted({image // size for image in missing})
    ]
    done_before = len(plan.images) - len(missing)

    def tell() -> None:
        console.print("stopping when the images in work are complete; Ctrl-C again to stop now")

    with (
        reporting(console, "build", "image", len(plan.images), done_before) as report,
        graceful_stop(tell) as stop_requested,
    ):
        try:
            for wanted in groups:
                with out_of_memory_named(size):
                    latents = sample_group(plan, wanted, model, schedule, report)
                for image, states in zip(wanted, latents, strict=True):
                    _warn_of_non_finite(image, states, console)
                    writer.write(image, states, model.decode(states[-1]))
                if stop_requested():
                    return True
        except KeyboardInterrupt:
            return True
    return False


def sample_group(
    plan: BuildPlan, wanted: Sequence[int], model: Model, schedule: Schedule, report: Reporter
) -> np.ndarray:
    """States of the wanted images of one group, shape (image, step, channel, height, width).

    A group is always whole, also where some of its images are complete or beyond the end:
    the shape of the arithmetic, and with it the last bit of a result, never depends on history.
    """
    size = plan.batch_size
    first = wanted[0] // size * size
    members = [min(image, plan.num_images - 1) for image in range(first, first + size)]
    rows = [image - first for image in wanted]
    conditioning = model.encode([plan.prompts[image] for image in members], plan.cfg_weight)
    states = euler_states(
        model,
        conditioning,
        schedule,
        [plan.seeds[image] for image in members],
        plan.sizes.image_size,
    )
    shape = (len(wanted), schedule.num_steps + 1, *plan.sizes.latent_shape)
    latents = np.empty(shape, dtype=np.float32)
    for step, state in enumerate(states):
        latents[:, step] = model.to_numpy(state)[rows]
        if step:
            report.advance(len(wanted) / schedule.num_steps)
    return latents


def _warn_of_non_finite(image: int, states: np.ndarray, console: Console) -> None:
    finite = np.isfinite(states).all(axis=(1, 2, 3))
    if not finite.all():
        console.print(f"warning: image {image} has non-finite latents from step {finite.argmin()}")

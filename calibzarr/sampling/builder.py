"""From prompts to trajectories in a store, resumable at any moment."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from calibzarr.errors import Call, Message, disk_full_named, out_of_memory_named
from calibzarr.long_run import long_run
from calibzarr.models import registry
from calibzarr.models.base import Model, Schedule
from calibzarr.models.memory import check_batch
from calibzarr.models.text import tokens
from calibzarr.models.text.ahead import Encoder
from calibzarr.progress import Reporter, progress_console
from calibzarr.quantization.configuration import Configuration
from calibzarr.sampling import models, non_finite, runs
from calibzarr.sampling.non_finite import Lost
from calibzarr.sampling.options import BuildOptions, refuse_differences
from calibzarr.sampling.plan import BuildPlan, plan
from calibzarr.sampling.sampler import euler_states
from calibzarr.storage import schema, store
from calibzarr.storage.manifest import about_new_store, prompts_sha256, read_root

logger = logging.getLogger(__name__)

_LIBRARIES = ("calibzarr", "diffusionkit", "mlx", "numpy", "transformers", "xarray", "zarr")


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
    path: str | Path | None = None,
    *,
    model: str | Path | None = None,
    prompts: str | Path | None = None,
    num_images: int | None = None,
    num_steps: int | None = None,
    cfg_weight: float | None = None,
    guidance: float | None = None,
    seed: int | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    latent_dtype: str | None = None,
    repeat: bool = False,
    resume: bool = False,
    images: tuple[int, int] | None = None,
    reference: str | Path | None = None,
    quantized: str | Path | Configuration | None = None,
    progress: bool | None = None,
) -> BuildResult:
    """Build a calibration dataset: sample every prompt and store every state.

    What is not given comes from the store, when one is resumed, or from the model's defaults.

    Args:
        path: directory of the store; ``stores/<model>.zarr`` if not given.
        model: a name that the registry knows; default ``tiny``. Beside ``reference``, the
            directory of a quantized checkpoint of its model.
        prompts: a CSV or text file; default: the embedded model's own prompts.
        num_images: images of the store; default: as many as the file has prompts.
        num_steps: model calls for each image.
        cfg_weight: weight of classifier-free guidance; 0 for none.
        guidance: that a model is told of which was distilled to be told, as FLUX.1 dev was.
        seed: seed of image 0; image i has ``seed + i``. Default 0.
        image_size: in pixels, of the square images.
        batch_size: images sampled together, all of them at most. Default 1.
        latent_dtype: ``float32`` or ``float16``. Default ``float32``.
        repeat: go through the prompts again, with new seeds, if there are too few.
        resume: go on with the store at ``path``; where there is none, begin it if ``model``,
            ``prompts``, ``num_images`` or ``reference`` says what.
        images: first and one past the last of the images to build now; default: all.
        reference: directory of a store whose images are made again: its model, prompts, seeds
            and settings, of which nothing else can be chosen.
        quantized: how the model is quantized that makes them: a configuration, its file, or the
            directory of a quantized checkpoint, which can be given as ``model`` as well.
        progress: whether to tell of it; if None, only on a terminal or in a notebook.

    Returns:
        How it ended. A first Ctrl-C ends it after the images in work.

    Raises:
        OptionError: if a value is not allowed, or differs from that of the store to resume.
        ValueError: if the prompt file, a store or the configuration cannot be used.
        NonFiniteError: if a state is infinite or NaN; its image is not stored, the others are.
        OSError: if the disk is full or cannot be written; complete images stay.
    """
    options = BuildOptions(
        model=None if model is None else str(model),
        prompts=prompts,
        num_images=num_images,
        num_steps=num_steps,
        cfg_weight=cfg_weight,
        guidance=guidance,
        seed=seed,
        image_size=image_size,
        batch_size=batch_size,
        latent_dtype=latent_dtype,
        repeat=repeat,
        resume=resume,
        images=images,
        reference=reference,
        quantized=quantized,
    )
    return run(plan(path, options), progress_console(progress))


def run(plan: BuildPlan, console: Console) -> BuildResult:
    """Build what was planned; see :func:`build`."""
    missing = plan.missing()
    grows = plan.root is not None and plan.root.num_images < plan.num_images
    before = int(plan.complete().sum())
    interrupted, lost = False, list[Lost]()

    def what_is_left() -> str | Message:
        if not plan.path.exists():
            return "nothing was created; make room, then give the same command again"
        done = int(store.completed(plan.path, plan.num_images).sum())
        stay = f"{done} of {plan.num_images} images are complete and stay; make room, then: "
        return Message(stay, resume_call(plan))

    with disk_full_named(what_is_left):
        if missing or grows:
            model = registry.load(plan.entry.name)
            schedule = model.schedule(plan.settings.num_steps)
            if plan.run is not None:
                if plan.run.source is not None:
                    source = plan.run.source
                    runs.check_source(source, manifest(plan, model), schedule)
                    tokens.check(source.path, source.attributes, plan.prompts, model)
                model = models.quantized(model, plan.run)
            _check_memory(plan, model)
            _prepare_store(plan, model, schedule)
            cut = tokens.notes(model, {image: plan.prompts[image] for image in missing})
            for note in (*plan.notes, *cut):
                console.print(f"note: {note}")
            interrupted, lost = _sample(plan, missing, model, schedule, console)
        if plan.root is not None:
            store.remove_leftovers(plan.path)
        complete = store.completed(plan.path, plan.num_images)
        if complete.all():
            store.finish(plan.path)
    if lost and not interrupted:
        raise non_finite.error(plan, lost, int(complete.sum()))
    return BuildResult(
        path=plan.path,
        num_images=plan.num_images,
        n_completed=int(complete.sum()),
        built=int(complete.sum()) - before,
        interrupted=interrupted,
    )


def _check_memory(plan: BuildPlan, model: Model) -> None:
    settings, fixed = plan.settings, plan.root is not None or plan.run is not None
    check_batch(
        model,
        settings.batch_size,
        settings.image_size,
        settings.num_steps,
        guided=settings.cfg_weight > 0,
        remedy="close other programs, or build a store anew with " if fixed else "use ",
    )


def resume_call(plan: BuildPlan) -> Call:
    """The call that goes on with a build."""
    chosen = plan.images
    images = {} if len(chosen) == plan.num_images else {"images": (chosen.start, chosen.stop)}
    return Call("build", (plan.path,), {"resume": True, **images})


def _prepare_store(plan: BuildPlan, model: Model, schedule: Schedule) -> None:
    """Create the store, or check that it goes on as it was begun and let it grow."""
    attributes = manifest(plan, model)
    if plan.root is None:
        coordinates = store.coordinates(schedule.sigma, schedule.timestep, plan.prompts, plan.seeds)
        try:
            configuration = None if plan.run is None else plan.run.text
            store.create(plan.path, plan.sizes, coordinates, attributes, configuration)
            return
        except FileExistsError:  # another builder was faster
            pass
    root = read_root(plan.path)
    optional = (*schema.FORMULAS, schema.GUIDANCE)
    named = [name for name in optional if name in root.attributes]
    fingerprint = {name: attributes.get(name) for name in (*schema.FINGERPRINT, *named)}
    stored = {**root.attributes, **runs.identity(root.attributes)}
    refuse_differences(plan.path, stored, {**fingerprint, **runs.identity(attributes)})
    tokens.check(plan.path, root.attributes, plan.prompts[: root.num_images], model)
    if root.num_images < plan.num_images:
        store.extend(plan.path, plan.prompts, plan.seeds, attributes)


def manifest(plan: BuildPlan, model: Model) -> dict[str, Any]:
    """The manifest of a store that is built by a plan, without its format."""
    settings = plan.settings
    return {
        "model": plan.entry.name,
        "model_fingerprint": model.fingerprint,
        "num_images": plan.num_images,
        **settings.attributes,
        "activation_dtype": model.activation_dtype,
        "sampler": model.sampler,
        "noise": plan.entry.noise.name,
        "schedule": plan.entry.schedule.name,
        "prompts_sha256": prompts_sha256(plan.prompts),
        "prompt_source": plan.prompt_source,
        **tokens.described(model, plan.prompts),
        **({} if plan.run is None else plan.run.attributes),
        **about_new_store(_LIBRARIES, plan.entry.name, plan.entry.repository, plan.entry.licence),
        "n_completed": 0,
    }


def _sample(
    plan: BuildPlan, missing: Sequence[int], model: Model, schedule: Schedule, console: Console
) -> tuple[bool, list[Lost]]:
    """Sample the missing images group by group.

    An image with a state that is not finite is not stored; the others of its group are. Where
    none is finite from the beginning, none of the rest is tried.

    Returns:
        Whether the user stopped it, and which images are not stored.
    """
    lost: list[Lost] = []
    writer = store.ImageWriter(plan.path)
    size = plan.settings.batch_size
    groups = [list(images) for _, images in groupby(missing, key=lambda image: image // size)]
    total, stopping = len(plan.images), "when the images in work are complete"
    done, before = 0, total - len(missing)
    with long_run(console, "build", "image", total, before, stopping=stopping) as run:
        encode = encoder(plan, model, missing, lambda: not run.stop_requested())
        for wanted in groups:
            with out_of_memory_named(size):
                latents = sample_group(plan, wanted, model, schedule, encode, run.report)
            for image, states in zip(wanted, latents, strict=True):
                found = non_finite.find(plan, model, image, states)
                if found is None:
                    writer.write(image, states, model.decode(states[-1]))
                    logger.info("image %d of %s is complete", image, plan.path)
                    done += 1
                else:
                    lost.append(found)
                    console.print(f"warning: {found}")
            if run.stops() or (lost and not done):
                break
    return run.interrupted, lost


def encoder(
    plan: BuildPlan,
    model: Model,
    images: Sequence[int],
    proceed: Callable[[], bool] = lambda: True,
) -> Encoder:
    """What encodes the prompts of the groups of some images, in their order.

    Args:
        plan: of the store.
        model: that made it, or makes it.
        images: that will be sampled.
        proceed: whether to go on encoding prompts that no image waits for.
    """
    settings = plan.settings
    firsts = dict.fromkeys(image // settings.batch_size for image in images)
    prompts = [plan.prompts[image] for first in firsts for image in _members(plan, first)]
    return Encoder(model, settings.cfg_weight, settings.guidance, prompts, proceed=proceed)


def _members(plan: BuildPlan, group: int) -> list[int]:
    size = plan.settings.batch_size
    return [min(image, plan.num_images - 1) for image in range(group * size, (group + 1) * size)]


def sample_group(
    plan: BuildPlan,
    wanted: Sequence[int],
    model: Model,
    schedule: Schedule,
    encode: Encoder,
    report: Reporter,
) -> np.ndarray:
    """States of the wanted images of one group, shape (image, step, channel, height, width).

    A group is always whole, also where some of its images are complete or beyond the end:
    the shape of the arithmetic, and with it the last bit of a result, never depends on history.
    """
    size = plan.settings.batch_size
    members = _members(plan, wanted[0] // size)
    rows = [image % size for image in wanted]
    states = euler_states(
        model,
        encode([plan.prompts[image] for image in members]),
        schedule,
        [plan.seeds[image] for image in members],
        plan.settings.image_size,
    )
    shape = (len(wanted), schedule.num_steps + 1, *plan.sizes.latent_shape)
    latents = np.empty(shape, dtype=np.float32)
    for step, state in enumerate(states):
        latents[:, step] = model.to_numpy(state)[rows]
        if step:
            report.advance(len(wanted) / schedule.num_steps)
    return latents

"""From prompts to trajectories in a store, resumable at any moment."""

import errno
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from calibzarr import prompts as prompt_lists
from calibzarr import schema, store
from calibzarr.errors import OptionError
from calibzarr.interruption import graceful_stop
from calibzarr.models import registry
from calibzarr.models.base import Model, Schedule
from calibzarr.progress import Reporter, reporting
from calibzarr.prompts import PromptList
from calibzarr.sampler import euler_states

DEFAULT_NUM_IMAGES = 16  # of the embedded model's own prompts

_STORED_FRACTION = 0.93  # of the raw bytes, measured on latents at 16x64x64
_CLEARLY_TOO_LITTLE = 0.8  # of the estimate
_LIBRARIES = ("calibzarr", "diffusionkit", "mlx", "numpy", "xarray", "zarr")


@dataclass(frozen=True)
class Plan:
    """What a build will make, settled and checked before anything is loaded or created.

    Attributes:
        path: directory of the store.
        exists: whether the store is there already, to be gone on with.
        entry: the model.
        sizes: sizes of the store's dimensions.
        cfg_weight: weight of classifier-free guidance.
        seed: seed of image 0.
        batch_size: images sampled together, in fixed groups.
        latent_dtype: dtype that latents are stored in.
        prompts: one for each image.
        seeds: one for each image.
        prompt_source: where the prompts come from.
        images: the images to build now; the others are another builder's.
    """

    path: Path
    exists: bool
    entry: registry.ModelEntry
    sizes: store.Sizes
    cfg_weight: float
    seed: int
    batch_size: int
    latent_dtype: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    prompt_source: str
    images: range

    @property
    def num_images(self) -> int:
        """Images of the whole store."""
        return self.sizes.num_images

    @property
    def image_bytes(self) -> int:
        """Estimate of one image's bytes on disk."""
        states = (self.sizes.num_steps + 1) * np.prod(self.sizes.latent_shape)
        latents = states * np.dtype(self.latent_dtype).itemsize
        return int(_STORED_FRACTION * (latents + 3 * self.sizes.image_size**2))

    def complete(self) -> np.ndarray:
        """Which images of the store are complete; shape (image,), bool."""
        if not self.exists:
            return np.zeros(self.num_images, dtype=bool)
        return store.completed(self.path, self.num_images)

    def missing(self) -> list[int]:
        """Images to build now, in order."""
        complete = self.complete()
        return [image for image in self.images if not complete[image]]


@dataclass(frozen=True)
class Result:
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


def plan(
    path: str | Path | None = None,
    *,
    model: str | None = None,
    prompts: str | Path | None = None,
    num_images: int | None = None,
    num_steps: int | None = None,
    cfg_weight: float | None = None,
    seed: int | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    latent_dtype: str | None = None,
    repeat: bool = False,
    resume: bool = False,
    images: tuple[int, int] | None = None,
) -> Plan:
    """Settle what to build; load and create nothing.

    What is not given comes from the store, when one is resumed, or from the model's defaults.

    Args:
        path: directory of the store; ``stores/<model>.zarr`` if not given.
        model: a name that the registry knows; default ``tiny``.
        prompts: a CSV or text file; default: the embedded model's own prompts.
        num_images: images of the store; default: as many as the file has prompts.
        num_steps: model calls for each image.
        cfg_weight: weight of classifier-free guidance; 0 for none.
        seed: seed of image 0; image i has ``seed + i``. Default 0.
        image_size: in pixels, of the square images.
        batch_size: images sampled together. Default 1.
        latent_dtype: ``float32`` or ``float16``. Default ``float32``.
        repeat: go through the prompts again, with new seeds, if there are too few.
        resume: go on with the store at ``path``, or begin it where there is none.
        images: first and one past the last of the images to build now; default: all.

    Raises:
        OptionError: if a value is not allowed, or differs from that of the store to resume.
        ValueError: if the prompt file or the store cannot be used.
        OSError: if something cannot be read, or ``path`` cannot be written.
    """
    exists = path is not None and store.exists(Path(path))
    if path is None:
        path = Path("stores") / f"{model or 'tiny'}.zarr"
        exists = store.exists(path)
    path = Path(path)
    stored: dict[str, Any] = {}
    if exists:
        stored = store.manifest(path)
        if not resume:
            raise OptionError(
                f"{path} exists already; go on with it by --resume, or choose another path"
            )
    entry = registry.find(model or stored.get("model", "tiny"))
    given: dict[str, Any] = {
        "model": model,
        "num_steps": num_steps,
        "cfg_weight": None if cfg_weight is None else float(cfg_weight),
        "seed": seed,
        "image_size": image_size,
        "batch_size": batch_size,
        "latent_dtype": latent_dtype,
    }
    if exists:
        _refuse_differences(path, stored, given)
    defaults: dict[str, Any] = {
        "num_steps": entry.num_steps,
        "cfg_weight": entry.cfg_weight,
        "seed": 0,
        "image_size": entry.image_size,
        "batch_size": 1,
        "latent_dtype": "float32",
    }
    chosen = {
        name: stored.get(name, default) if given[name] is None else given[name]
        for name, default in defaults.items()
    }
    for name in ("num_steps", "batch_size"):
        if chosen[name] < 1:
            raise OptionError(f"{name} must be 1 or more, got {chosen[name]}")
    if num_images is not None and num_images < 1:
        raise OptionError(f"num_images must be 1 or more, got {num_images}")
    if chosen["latent_dtype"] not in schema.LATENT_DTYPES:
        raise OptionError(
            f"dtype must be {' or '.join(schema.LATENT_DTYPES)}, got {chosen['latent_dtype']!r}"
        )
    entry.check_image_size(chosen["image_size"])
    entry.check_cfg_weight(chosen["cfg_weight"])

    prompt_list, seeds, source = _settle_prompts(
        path, stored, entry, prompts, num_images, chosen["seed"], repeat
    )
    first, end = images or (0, len(prompt_list))
    if not 0 <= first < end <= len(prompt_list):
        raise OptionError(
            f"images must be A:B with 0 <= A < B <= {len(prompt_list)}, got {first}:{end}"
        )
    sizes = store.Sizes(
        num_images=len(prompt_list),
        num_steps=chosen["num_steps"],
        latent_shape=entry.latent_shape(chosen["image_size"]),
        image_size=chosen["image_size"],
    )
    settled = Plan(
        path=path,
        exists=exists,
        entry=entry,
        sizes=sizes,
        cfg_weight=chosen["cfg_weight"],
        seed=chosen["seed"],
        batch_size=chosen["batch_size"],
        latent_dtype=chosen["latent_dtype"],
        prompts=tuple(prompt_list),
        seeds=tuple(seeds),
        prompt_source=source,
        images=range(first, end),
    )
    _check_room(settled)
    return settled


def _refuse_differences(path: Path, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if value is not None and value != stored.get(name):
            raise OptionError(
                f"{path} was begun with {name} {stored.get(name)!r}, and cannot go on with "
                f"{value!r}; leave the option out, or build another store"
            )


def _settle_prompts(
    path: Path,
    stored: Mapping[str, Any],
    entry: registry.ModelEntry,
    file: str | Path | None,
    num_images: int | None,
    seed: int,
    repeat: bool,
) -> tuple[Sequence[str], Sequence[int], str]:
    """Prompts and seeds of all images, and where they come from."""
    before, seeds_before = store.stored_prompts(path) if stored else ([], [])
    if num_images is not None and num_images < len(before):
        raise OptionError(
            f"{path} was begun with num_images {len(before)}, and cannot shrink to {num_images}"
        )
    available = _available_prompts(stored, entry, file)
    if available is None:
        if num_images is not None and num_images > len(before):
            raise OptionError(
                f"{path} has prompts for {len(before)} images; for {num_images} give "
                f"--prompts with the longer list"
            )
        return before, seeds_before, stored["prompt_source"]
    default = len(available.prompts) if file is not None else DEFAULT_NUM_IMAGES
    count = num_images or len(before) or default
    prompts, seeds = prompt_lists.assign(available, count, seed, repeat)
    for image, old in enumerate(zip(before, seeds_before, strict=True)):
        new = prompts[image], seeds[image]
        for name, was, given in zip(("prompt", "seed"), old, new, strict=True):
            if was != given:
                raise OptionError(
                    f"{path} was begun with {name} {was!r} for image {image}, and cannot go on "
                    f"with {given!r}; give the same prompt file, or build another store"
                )
    return prompts, seeds, available.source


def _available_prompts(
    stored: Mapping[str, Any], entry: registry.ModelEntry, file: str | Path | None
) -> PromptList | None:
    if file is not None:
        return prompt_lists.read_prompts(Path(file))
    built_in = prompt_lists.shape_captions()
    if stored:
        return built_in if stored.get("prompt_source") == built_in.source else None
    if entry.repository is not None:
        raise OptionError(f"{entry.name} has no prompts of its own; give a file with --prompts")
    return built_in


def _check_room(settled: Plan) -> None:
    """Check that the store can be written, and that the disk is not clearly too small."""
    store.check_writable(settled.path)
    needed = len(settled.missing()) * settled.image_bytes
    free = shutil.disk_usage(store.existing_parent(settled.path)).free
    if free < _CLEARLY_TOO_LITTLE * needed:
        raise OSError(
            errno.ENOSPC,
            f"{settled.path} needs about {needed / 1e9:.1f} GB, but the disk has "
            f"{free / 1e9:.1f} GB free; make room, or build fewer images",
        )


def build(
    path: str | Path | None = None, *, console: Console | None = None, **options: Any
) -> Result:
    """Build a calibration dataset: sample every prompt and store every state.

    Args:
        path: directory of the store.
        console: where to report progress; silent if not given.
        **options: as those of :func:`plan`.

    Returns:
        How it ended. A first Ctrl-C ends it after the images in work.

    Raises:
        OptionError: if a value is not allowed, or differs from that of the store to resume.
        ValueError: if the prompt file or the store cannot be used.
        OSError: if the disk is full or cannot be written; complete images stay.
    """
    return run(plan(path, **options), console or Console(quiet=True))


def run(settled: Plan, console: Console) -> Result:
    """Build what was planned; see :func:`build`."""
    missing = settled.missing()
    grows = settled.exists and len(store.stored_prompts(settled.path)[0]) < settled.num_images
    before = int(settled.complete().sum())
    interrupted = False
    try:
        if missing or grows:
            model = registry.load(settled.entry.name)
            schedule = model.schedule(settled.sizes.num_steps)
            _prepare_store(settled, model, schedule)
            interrupted = _sample(settled, missing, model, schedule, console)
        if settled.exists:
            store.remove_leftovers(settled.path)
        complete = store.completed(settled.path, settled.num_images)
        if complete.all():
            store.finish(settled.path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        done = int(store.completed(settled.path, settled.num_images).sum())
        raise OSError(
            error.errno,
            f"the disk is full: {done} of {settled.num_images} images are complete and stay; "
            f"make room, then: {resume_command(settled.path)}",
        ) from error
    return Result(
        path=settled.path,
        num_images=settled.num_images,
        n_completed=int(complete.sum()),
        built=int(complete.sum()) - before,
        interrupted=interrupted,
    )


def resume_command(path: Path) -> str:
    """The command that goes on with a store."""
    return f"calibzarr build {path} --resume"


def _prepare_store(settled: Plan, model: Model, schedule: Schedule) -> None:
    """Create the store, or check that it goes on as it was begun and let it grow."""
    attributes = _manifest(settled, model)
    if not settled.exists:
        coordinates = {
            schema.SIGMA.name: schedule.sigma,
            schema.TIMESTEP.name: schedule.timestep,
            schema.FINAL.name: np.arange(schedule.num_steps + 1) == schedule.num_steps,
            schema.PROMPT.name: np.asarray(settled.prompts, dtype=object),
            schema.SEED.name: np.asarray(settled.seeds, dtype=np.int64),
        }
        try:
            store.create(settled.path, settled.sizes, coordinates, attributes)
            return
        except FileExistsError:  # another builder was faster
            pass
    stored = store.manifest(settled.path)
    _refuse_differences(settled.path, stored, {k: attributes[k] for k in schema.FINGERPRINT})
    if len(store.stored_prompts(settled.path)[0]) < settled.num_images:
        changing = ("num_images", "prompts_sha256", "prompt_source")
        new = {name: attributes[name] for name in changing}
        store.extend(settled.path, settled.prompts, settled.seeds, new)


def _manifest(settled: Plan, model: Model) -> dict[str, Any]:
    return {
        "model": settled.entry.name,
        "model_fingerprint": model.fingerprint,
        "num_images": settled.num_images,
        "num_steps": settled.sizes.num_steps,
        "cfg_weight": settled.cfg_weight,
        "image_size": settled.sizes.image_size,
        "latent_dtype": settled.latent_dtype,
        "activation_dtype": model.activation_dtype,
        "sampler": model.sampler,
        "seed": settled.seed,
        "batch_size": settled.batch_size,
        "prompts_sha256": prompt_lists.prompts_sha256(settled.prompts),
        "prompt_source": settled.prompt_source,
        "libraries": {name: version(name) for name in _LIBRARIES},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "n_completed": 0,
    }


def _sample(
    settled: Plan, missing: Sequence[int], model: Model, schedule: Schedule, console: Console
) -> bool:
    """Sample the missing images group by group; return whether the user stopped it."""
    writer = store.ImageWriter(settled.path)
    size = settled.batch_size
    groups = [
        [image for image in missing if image // size == group]
        for group in sorted({image // size for image in missing})
    ]
    done_before = len(settled.images) - len(missing)

    def tell() -> None:
        console.print("stopping when the images in work are complete; Ctrl-C again to stop now")

    with (
        reporting(console, "build", "image", len(settled.images), done_before) as report,
        graceful_stop(tell) as stop_requested,
    ):
        try:
            for wanted in groups:
                latents = _sample_group(settled, wanted, model, schedule, report)
                for image, states in zip(wanted, latents, strict=True):
                    _warn_of_non_finite(image, states, console)
                    writer.write(image, states, model.decode(states[-1]))
                if stop_requested():
                    return True
        except KeyboardInterrupt:
            return True
    return False


def _sample_group(
    settled: Plan, wanted: Sequence[int], model: Model, schedule: Schedule, report: Reporter
) -> np.ndarray:
    """States of the wanted images of one group, shape (image, step, channel, height, width).

    A group is always whole, also where some of its images are complete or beyond the end:
    the shape of the arithmetic, and with it the last bit of a result, never depends on history.
    """
    size = settled.batch_size
    first = wanted[0] // size * size
    members = [min(image, settled.num_images - 1) for image in range(first, first + size)]
    rows = [image - first for image in wanted]
    conditioning = model.encode([settled.prompts[image] for image in members], settled.cfg_weight)
    states = euler_states(
        model,
        conditioning,
        settled.cfg_weight,
        schedule,
        [settled.seeds[image] for image in members],
        settled.sizes.image_size,
    )
    shape = (len(wanted), schedule.num_steps + 1, *settled.sizes.latent_shape)
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

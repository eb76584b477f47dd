"""What a build will make: planned, and checked, before anything is loaded or created."""

import errno
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.filesize import decimal

from calibzarr.errors import OptionError
from calibzarr.models import registry
from calibzarr.prompts import lists as prompt_lists
from calibzarr.prompts.lists import PromptList
from calibzarr.storage import objects, schema, store
from calibzarr.storage.manifest import read_root

DEFAULT_NUM_IMAGES = 16  # of the embedded model's own prompts

_STORED_FRACTION = 0.93  # of the raw bytes, measured on latents at 16x64x64
_CLEARLY_TOO_LITTLE = 0.8  # of the estimate


@dataclass(frozen=True)
class BuildPlan:
    """What a build will make, planned and checked before anything is loaded or created.

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
) -> BuildPlan:
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
    path = Path(path) if path is not None else Path("stores") / f"{model or 'tiny'}.zarr"
    exists = objects.exists(path)
    stored = read_root(path).attributes if exists else {}
    if exists and not resume:
        raise OptionError(
            f"{path} exists already; go on with it by --resume, or choose another path"
        )
    if "imported" in stored:
        raise OptionError(
            f"{path} was imported, and which weights made it is not known: only the same "
            f"import-legacy can add to it; build another store"
        )
    entry = registry.find(model or stored.get("model", "tiny"))
    given = {
        "model": model,
        "num_steps": num_steps,
        "cfg_weight": None if cfg_weight is None else float(cfg_weight),
        "seed": seed,
        "image_size": image_size,
        "batch_size": batch_size,
        "latent_dtype": latent_dtype,
    }
    if exists:
        refuse_differences(path, stored, given)
    if num_images is not None and num_images < 1:
        raise OptionError(f"num_images must be 1 or more, got {num_images}")
    chosen = _settle_options(entry, stored, given)
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
    plan = BuildPlan(
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
    _check_room(plan)
    return plan


def _settle_options(
    entry: registry.ModelEntry, stored: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """What is given, or else what the store was begun with, or else the model's default."""
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
    if chosen["latent_dtype"] not in schema.LATENT_DTYPES:
        raise OptionError(
            f"dtype must be {' or '.join(schema.LATENT_DTYPES)}, got {chosen['latent_dtype']!r}"
        )
    entry.check_image_size(chosen["image_size"])
    entry.check_cfg_weight(chosen["cfg_weight"])
    return chosen


def refuse_differences(path: Path, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check that what is given, and is not None, is what a store was begun with.

    Raises:
        OptionError: if not, naming the field and both values.
    """
    for name, value in given.items():
        if value is not None and value != stored.get(name):
            option = "dtype" if name == "latent_dtype" else name
            raise OptionError(
                f"{path} was begun with {option} {stored.get(name)!r}, and cannot go on with "
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
    prompts, seeds = prompt_lists.assign(available, count, seed, repeat=repeat)
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


def _check_room(plan: BuildPlan) -> None:
    """Check that the store can be written, and that the disk is not clearly too small."""
    objects.check_writable(plan.path)
    needed = len(plan.missing()) * plan.image_bytes
    free = shutil.disk_usage(objects.existing_parent(plan.path)).free
    if free < _CLEARLY_TOO_LITTLE * needed:
        raise OSError(
            errno.ENOSPC,
            f"{plan.path} needs about {decimal(needed)}, but the disk has {decimal(free)} "
            f"free; make room, or build fewer images",
        )

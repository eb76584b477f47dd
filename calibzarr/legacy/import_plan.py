"""What an import will make of an old directory: planned, and checked, before it is made."""

import errno
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.filesize import decimal

from calibzarr import parallel
from calibzarr.errors import OptionError
from calibzarr.legacy import directory as legacy_directory
from calibzarr.legacy import format as legacy
from calibzarr.legacy import statistics as legacy_statistics
from calibzarr.legacy import trajectories
from calibzarr.legacy.directory import OldManifest, States
from calibzarr.legacy.npz import Unreadable
from calibzarr.legacy.trajectories import Reference
from calibzarr.models import registry
from calibzarr.prompts import lists as prompt_lists
from calibzarr.storage import schema, store

_LIBRARIES = ("calibzarr", "numpy", "zarr")
_PIXELS_PER_LATENT = 8
_STORED_FRACTION = 0.93  # of the raw bytes, measured on latents at 16x64x64
_CLEARLY_TOO_LITTLE = 0.8  # of the estimate
_COMPARED = 3  # images of a store that are tried for a comparison with the directory


@dataclass(frozen=True)
class ImportPlan:
    """What an import will make, planned and checked before anything is created.

    Attributes:
        directory: the old directory.
        path: directory of the store.
        exists: whether the store is there, from an earlier run of this import.
        reference: what the images have in common.
        sizes: sizes of the store's dimensions.
        prompts: one for each image.
        seeds: one for each image.
        attributes: the store's manifest.
        candidates: images of which all states are there.
        left_out: the others, each with what is missing.
        manifest: of the old directory.
        notes: what the user should know, a line each.
        workers: threads; nearly all of the time is spent outside of Python.
    """

    directory: Path
    path: Path
    exists: bool
    reference: Reference
    sizes: store.Sizes
    prompts: Sequence[str]
    seeds: Sequence[int]
    attributes: Mapping[str, Any]
    candidates: tuple[int, ...]
    left_out: Mapping[int, str]
    manifest: OldManifest
    notes: tuple[str, ...]
    workers: int

    @property
    def num_images(self) -> int:
        """Images of the whole store."""
        return self.sizes.num_images

    @property
    def manifest_folder(self) -> Path | None:
        """Where the old manifest stands, if there is one."""
        return self.manifest.folder

    def filename(self, image: int) -> str | None:
        """Name of an image's picture, if the old manifest has one."""
        known = self.manifest.images.get(image)
        return None if known is None else known.filename

    def missing(self) -> list[int]:
        """Images to import now, in order."""
        if not store.exists(self.path):
            return list(self.candidates)
        complete = store.completed(self.path, self.num_images)
        return [image for image in self.candidates if not complete[image]]


def plan(
    directory: str | Path,
    path: str | Path,
    *,
    prompts: str | Path | None = None,
    model: str | None = None,
    cfg_weight: float | None = None,
    seed: int | None = None,
    layout: str | None = None,
    workers: int | None = None,
) -> ImportPlan:
    """Settle what to import; create nothing.

    What is given counts where the directory's manifest says nothing. What neither says is None
    in the store's manifest: not known.

    Args:
        directory: in the old layout.
        path: directory of the store; nothing, or an earlier import of the same directory.
        prompts: a CSV or text file; prompt i is that of image i.
        model: a name that the registry knows.
        cfg_weight: weight of classifier-free guidance.
        seed: seed of image 0; image i has ``seed + i``.
        layout: of x, ``nchw`` or ``nhwc``; default: as its shape tells.
        workers: threads; default: as many as there are processors.

    Raises:
        OptionError: if a value is not allowed, or the store at ``path`` is another.
        ValueError: if the directory has no whole image, a complete one has no prompt, or its
            manifest names files outside of it.
        OSError: if something cannot be read or written, or the disk is clearly too small.
    """
    directory, path = Path(directory), Path(path)
    if not directory.is_dir():
        raise NotADirectoryError(f"{directory} is not a directory")
    if workers is not None and workers < 1:
        raise OptionError(f"workers must be 1 or more, got {workers}")
    if layout not in (None, *legacy.LAYOUTS):
        raise OptionError(f"layout must be {' or '.join(legacy.LAYOUTS)}, got {layout!r}")
    manifest = legacy_directory.read_manifest(directory)
    states = legacy_directory.list_states(directory)
    num_states = _settle_num_states(manifest, states)
    candidates = states.images[states.begun >= num_states]
    reference = trajectories.find(directory, candidates.tolist(), num_states, layout)
    left_out = _missing_states(manifest, states, num_states)
    num_images = 1 + max(int(states.images[-1]), *manifest.images, 0)
    notes = [*manifest.problems]
    texts, seeds, seed_base = _settle_prompts(
        directory, manifest, candidates.tolist(), num_images, prompts, seed, notes
    )
    statistics, problems = legacy_statistics.read(directory)
    notes += problems
    extent = reference.latent_shape[1]
    sizes = store.Sizes(
        num_images, num_states - 1, reference.latent_shape, _PIXELS_PER_LATENT * extent
    )
    source = manifest.about.get("prompt_path")
    attributes: dict[str, Any] = {
        **dict.fromkeys(schema.FINGERPRINT),
        "model": _settle_model(manifest, model, notes),
        "num_images": num_images,
        "num_steps": sizes.num_steps,
        "cfg_weight": _settle_weight(manifest, cfg_weight, notes),
        "image_size": sizes.image_size,
        "latent_dtype": "float32",
        "seed": seed_base,
        "prompts_sha256": prompt_lists.prompts_sha256(texts),
        "prompt_source": source if isinstance(source, str) else _source(prompts),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "n_completed": 0,
        "imported": {"layout": reference.layout, "manifest": dict(manifest.about)},
    }
    if statistics is not None:
        attributes[legacy_statistics.ATTRIBUTE] = statistics
    plan = ImportPlan(
        directory=directory,
        path=path,
        exists=store.exists(path),
        reference=reference,
        sizes=sizes,
        prompts=texts,
        seeds=seeds,
        attributes=attributes,
        candidates=tuple(candidates.tolist()),
        left_out=left_out,
        manifest=manifest,
        notes=tuple(notes),
        workers=workers or parallel.default_workers(),
    )
    if plan.exists:
        _check_same(plan)
    _check_room(plan)
    return plan


def _source(prompts: str | Path | None) -> str:
    return "not known" if prompts is None else Path(prompts).name


def _settle_num_states(manifest: OldManifest, states: States) -> int:
    """How many states an image has: what the manifest says, or else what most images have."""
    told = manifest.about.get("num_steps")
    if isinstance(told, int) and (states.begun >= told + 1).any() and told > 0:
        return told + 1
    numbers, counts = np.unique(states.begun, return_counts=True)
    return int(numbers[len(counts) - 1 - counts[::-1].argmax()])


def _missing_states(manifest: OldManifest, states: States, num_states: int) -> dict[int, str]:
    missing = {image: "has no state at all" for image in manifest.images}
    for image, begun in zip(states.images.tolist(), states.begun.tolist(), strict=True):
        missing.pop(image, None)
        if begun < num_states:
            missing[image] = f"{legacy.state_name(image, begun)} is missing"
    return missing


def _settle_prompts(
    directory: Path,
    manifest: OldManifest,
    candidates: Sequence[int],
    num_images: int,
    file: str | Path | None,
    seed: int | None,
    notes: list[str],
) -> tuple[list[str], list[int], int]:
    """Prompt and seed of each image, and the seed of image 0."""
    given = prompt_lists.read_prompts(Path(file)) if file is not None else None
    texts = [""] * num_images
    own_seeds: list[int | None] = [None] * num_images
    if given is not None:
        texts[: len(given.prompts)] = given.prompts[:num_images]
        own_seeds[: len(given.seeds)] = given.seeds[:num_images]
    for image, known in manifest.images.items():
        texts[image] = texts[image] if known.prompt is None else known.prompt
        own_seeds[image] = own_seeds[image] if known.seed is None else known.seed
    unnamed = [image for image in candidates if not texts[image]]
    if unnamed:
        count = f" and {len(unnamed) - 1} more" if len(unnamed) > 1 else ""
        told = f"; {file} has {len(given.prompts)}" if given is not None else ""
        raise ValueError(
            f"{directory}: the prompt of image {unnamed[0]}{count} is not known "
            f"({'; '.join(manifest.problems) or 'the manifest lacks it'}{told}); give all prompts "
            f"with --prompts FILE, one for each image from image 0 on"
        )
    base = seed if seed is not None else manifest.about.get("seed_base")
    if isinstance(base, bool) or not isinstance(base, int):
        first = own_seeds[0]
        base = 0 if first is None else first
        if any(own_seeds[image] is None for image in candidates):
            notes.append(
                f"the seeds of some images are not known: taking {base} + the image's index; "
                f"--seed says another"
            )
    if not 0 <= base <= prompt_lists.MAX_SEED - num_images + 1:
        raise OptionError(
            f"seed must be 0 to {prompt_lists.MAX_SEED - num_images + 1} for {num_images} images, "
            f"got {base}"
        )
    seeds = [base + image if own is None else own for image, own in enumerate(own_seeds)]
    return texts, seeds, base


def _settle_model(manifest: OldManifest, model: str | None, notes: list[str]) -> str | None:
    """Name of the model that made the states, or None."""
    if model is not None:
        return registry.find(model).name
    told = manifest.about.get("model_version")
    for entry in registry.MODELS.values():
        names = (entry.name, _short_name(entry.repository or entry.name))
        if isinstance(told, str) and _short_name(told) in names:
            return entry.name
    notes.append(
        f"which model made the states is not known"
        f"{'' if told is None else f' (the manifest says {told!r})'}; to collect, say it: --model"
    )
    return None


def _short_name(repository: str) -> str:
    return repository.lower().rpartition("/")[2].removeprefix("mlx-")


def _settle_weight(manifest: OldManifest, given: float | None, notes: list[str]) -> float | None:
    """Guidance weight of all images, or None."""
    if given is not None:
        if not 0 <= given < float("inf"):
            raise OptionError(f"cfg_weight must be 0 or more, got {given}")
        return float(given)
    own = {known.cfg_weight for known in manifest.images.values() if known.cfg_weight is not None}
    told = legacy_directory.number_or_none(manifest.about.get("cfg_scale"))
    if len(own) > 1:
        notes.append("the images differ in cfg_weight, and a store has one: taking it as not known")
        return None
    weight = own.pop() if own else told
    if weight is None:
        notes.append("the guidance weight is not known; to collect, say it: --cfg-weight")
    return weight


def _check_room(plan: ImportPlan) -> None:
    """Check that the store can be written, and that the disk is not clearly too small."""
    store.check_writable(plan.path)
    values = len(plan.reference.sigma) * np.prod(plan.reference.latent_shape)
    needed = int(_STORED_FRACTION * 4 * values * len(plan.missing()))
    free = shutil.disk_usage(store.existing_parent(plan.path)).free
    if free < _CLEARLY_TOO_LITTLE * needed:
        raise OSError(
            errno.ENOSPC,
            f"{plan.path} needs about {decimal(needed)}, but the disk has {decimal(free)} "
            f"free; make room first",
        )


def _check_same(plan: ImportPlan) -> None:
    """Check that a store is an import of this directory, which may go on.

    Raises:
        OptionError: if it is another; says in what.
    """
    path, reference = plan.path, plan.reference
    stored = store.manifest(path)
    if "imported" not in stored:
        raise OptionError(f"{path} exists already, and was not imported; choose another path")
    group = store.open_group(path, mode="r")
    sigma = np.asarray(store.array(group, schema.SIGMA.name)[:])
    prompts, seeds = store.stored_prompts(path)
    common = min(len(prompts), plan.num_images)
    known = ("model", "num_steps", "cfg_weight", "image_size", "latent_dtype")
    differing = [
        name
        for name in known
        if None not in (stored.get(name), plan.attributes[name])
        and stored[name] != plan.attributes[name]
    ]
    if list(prompts[:common]) != list(plan.prompts[:common]):
        differing.append("prompts")
    if list(seeds[:common]) != list(plan.seeds[:common]):
        differing.append("seeds")
    if not np.array_equal(sigma, reference.sigma):
        differing.append("sigma")
    if not differing and not _same_states(plan, group):
        differing.append("states")
    if differing:
        raise OptionError(
            f"{path} differs from {plan.directory} in {', '.join(differing)}, and is no import "
            f"of it; choose another path"
        )


def _same_states(plan: ImportPlan, group: Any) -> bool:
    """Whether an image that is complete in the store has the same final state in both."""
    latents = store.array(group, schema.LATENTS.name)
    complete = store.completed(plan.path, latents.shape[0])
    both = [image for image in plan.candidates if image < len(complete) and complete[image]]
    last = len(plan.reference.sigma) - 1
    for image in both[:_COMPARED]:
        *_, path = legacy_directory.state_paths(plan.directory, image, last + 1)
        try:
            state = trajectories.read_state(path, last, plan.reference)
        except Unreadable:
            continue
        return np.array_equal(state, np.asarray(latents[image, last]), equal_nan=True)
    return True

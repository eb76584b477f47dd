"""From a store to the directory of a file for each state; see :mod:`calibzarr.export.legacy`."""

import errno
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.filesize import decimal

from calibzarr import parallel
from calibzarr.errors import OptionError, disk_full_named
from calibzarr.legacy import format as legacy
from calibzarr.legacy import image_files
from calibzarr.legacy import statistics as legacy_statistics
from calibzarr.long_run import graceful_stop
from calibzarr.models import registry
from calibzarr.progress import reporting
from calibzarr.storage import durable, schema, store

_IDENTITY = (*schema.FINGERPRINT, "created")  # attributes that tell one store from another
_STORED_FRACTION = 0.93  # of the raw bytes, measured on latents at 16x64x64
_CLEARLY_TOO_LITTLE = 0.8  # of the estimate
_SD3 = registry.find("sd3-medium")  # whose latents they are where the model is not known


@dataclass(frozen=True)
class ExportPlan:
    """What an export will write, planned and checked before anything is written.

    Attributes:
        path: directory of the store.
        directory: where to.
        images: those to export, complete ones all.
        left_out: images that were asked for and are not complete.
        parts: of ``legacy.PARTS``.
        layout: of the states, one of ``legacy.LAYOUTS``.
        force: whether to replace what is there.
        workers: processes.
    """

    path: Path
    directory: Path
    images: tuple[int, ...]
    left_out: tuple[int, ...]
    parts: tuple[str, ...]
    layout: str
    force: bool
    workers: int


@dataclass(frozen=True)
class ExportResult:
    """How an export ended.

    Attributes:
        directory: where it is.
        num_images: images whose files are all there.
        interrupted: whether the user stopped it; then there is no new manifest.
        statistics: whether statistics were written.
        others: files of states in the directory that are not of this export.
    """

    directory: Path
    num_images: int
    interrupted: bool
    statistics: bool
    others: int


def plan(
    path: str | Path,
    directory: str | Path,
    *,
    num_images: int | None = None,
    images: tuple[int, int] | None = None,
    only: Sequence[str] | None = None,
    layout: str = "nchw",
    force: bool = False,
    workers: int | None = None,
) -> ExportPlan:
    """Settle what to export; write nothing.

    Args:
        path: directory of the store.
        directory: where to; nothing, or an earlier export of the same store, which is added to.
        num_images: the first so many complete images.
        images: first and one past the last of the images to choose from.
        only: of ``legacy.PARTS``; default all.
        layout: ``nchw``: x is (1, channel, height, width); or ``nhwc``, channels last.
        force: replace the files that are there already.
        workers: processes; default: as many as there are processors.

    Raises:
        OptionError: if a value is not allowed, or ``directory`` holds something else.
        ValueError: if the store has no complete image, or cannot be used.
        OSError: if something cannot be read or written, or the disk is clearly too small.
    """
    path, directory = Path(path), Path(directory)
    store.manifest(path)
    prompts, _ = store.stored_prompts(path)
    parts = _settle_parts(only)
    if layout not in legacy.LAYOUTS:
        raise OptionError(f"layout must be {' or '.join(legacy.LAYOUTS)}, got {layout!r}")
    for name, value in (("num_images", num_images), ("workers", workers)):
        if value is not None and value < 1:
            raise OptionError(f"{name} must be 1 or more, got {value}")
    first, end = images or (0, len(prompts))
    if not 0 <= first < end <= len(prompts):
        raise OptionError(
            f"images must be A:B with 0 <= A < B <= {len(prompts)}, got {first}:{end}"
        )
    complete = store.completed(path, len(prompts))
    chosen = [int(image) for image in np.flatnonzero(complete[first:end]) + first][:num_images]
    if not chosen:
        raise ValueError(f"no image of {first}:{end} is complete in {path}; there is nothing to do")
    last = chosen[-1] + 1 if num_images == len(chosen) else end
    left_out = [image for image in range(first, last) if not complete[image]]
    plan = ExportPlan(
        path=path,
        directory=directory,
        images=tuple(chosen),
        left_out=tuple(left_out),
        parts=parts,
        layout=layout,
        force=force,
        workers=min(workers or parallel.default_workers(), len(chosen)),
    )
    _check_directory(plan)
    return plan


def _settle_parts(only: Sequence[str] | None) -> tuple[str, ...]:
    for part in only or ():
        if part not in legacy.PARTS:
            raise OptionError(f"only must be some of {', '.join(legacy.PARTS)}; got {part!r}")
    return tuple(part for part in legacy.PARTS if only is None or part in only)


def _check_directory(plan: ExportPlan) -> None:
    """Check that the export may be written where it is to go, and that there is room."""
    directory, path = plan.directory, plan.path.resolve()
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; an export is a directory")
    if (directory / "zarr.json").exists() or path in (
        directory.resolve(),
        *directory.resolve().parents,
    ):
        raise OptionError(f"{directory} is a store, or in one; choose another directory")
    store.check_writable(directory)
    marker, identity = _read_marker(directory), _identity(plan)
    if not plan.force and not _is_same(marker, identity):
        names = (legacy.SAMPLES, legacy.LATENTS, legacy.IMAGES, legacy.MANIFEST, legacy.ACTIVATIONS)
        found = next((name for name in names if (directory / name).exists()), None)
        if marker is not None and marker.get("store") == identity["store"]:
            held = f"is an export in the layout {marker.get('layout')}"
        elif marker is not None:
            held = "is an export of another store"
        else:
            held = f"has {found} already, and is no export of {plan.path}"
        if marker is not None or found is not None:
            raise OptionError(
                f"{directory} {held}; choose another directory, or replace the files of the same "
                f"names with --force"
            )
    shape = store.array(store.open_group(plan.path, mode="r"), schema.LATENTS.name).shape
    needed = _STORED_FRACTION * 4 * np.prod(shape[1:]) * len(plan.images)
    free = shutil.disk_usage(store.existing_parent(directory)).free
    too_little = free < _CLEARLY_TOO_LITTLE * needed and marker is None
    if legacy.SAMPLES in plan.parts and too_little:
        raise OSError(
            errno.ENOSPC,
            f"{directory} needs about {decimal(int(needed))}, but the disk has {decimal(free)} "
            f"free; make room, or export fewer images",
        )


def _read_marker(directory: Path) -> dict[str, Any] | None:
    """What an earlier export wrote: ``store``, ``layout``, and ``images``, which it finished."""
    try:
        marker = legacy_statistics.read_json(directory / legacy.MARKER, legacy.MOST_MARKER_BYTES)
    except ValueError:
        return None
    images = marker.get("images")
    if not isinstance(images, list) or not all(isinstance(image, int) for image in images):
        return None
    return marker


def _identity(plan: ExportPlan) -> dict[str, Any]:
    """What an export must share with an earlier one that it adds to."""
    attributes = store.manifest(plan.path)
    return {
        "store": {name: attributes.get(name) for name in _IDENTITY},
        "layout": plan.layout,
    }


def _is_same(marker: dict[str, Any] | None, identity: dict[str, Any]) -> bool:
    return marker is not None and all(marker.get(name) == own for name, own in identity.items())


def _write_marker(plan: ExportPlan, images: Iterable[int]) -> None:
    marker = {**_identity(plan), "images": sorted(images)}
    durable.write(plan.directory / legacy.MARKER, json.dumps(marker).encode())


def run(plan: ExportPlan, console: Console) -> ExportResult:
    """Export what was planned: all files of the images, then the statistics and the manifest.

    Each file is on the disk before it gets its name, and one that is there stays as it is.

    Raises:
        ValueError: if an image of the store is damaged.
        OSError: if something cannot be written; files that are whole stay.
    """

    def what_is_left() -> str:
        return "the files that are whole stay; make room, then give the same command again"

    with disk_full_named(what_is_left):
        _prepare(plan)
        interrupted = _export_images(plan, console)
        statistics = False
        if not interrupted:
            before = _read_marker(plan.directory) or {}
            _write_marker(plan, {*before.get("images", []), *plan.images})
            statistics = _write_statistics(plan)
            if "manifest" in plan.parts:
                _write_manifest(plan)
    return ExportResult(
        directory=plan.directory,
        num_images=len(plan.images),
        interrupted=interrupted,
        statistics=statistics,
        others=_others(plan),
    )


def _prepare(plan: ExportPlan) -> None:
    """Make the folders and the marker; with force, remove first what will be written."""
    directory = plan.directory
    directory.mkdir(parents=True, exist_ok=True)
    if plan.force:
        (directory / legacy.MANIFEST).unlink(missing_ok=True)
        num_states = len(_levels(plan.path)[0])
        for image in plan.images:
            for _, name in image_files.names(plan.parts, image, num_states):
                (directory / name).unlink(missing_ok=True)
    # The marker comes after: until then, what is there is not taken for this export's.
    durable.remove_abandoned(directory.glob("*.partial"))
    for part in (legacy.SAMPLES, legacy.LATENTS, legacy.IMAGES):
        if part in plan.parts:
            (directory / part).mkdir(exist_ok=True)
            durable.remove_abandoned((directory / part).glob("*.partial"))
    if not _is_same(_read_marker(directory), _identity(plan)):
        _write_marker(plan, [])


def _levels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    group = store.open_group(path, mode="r")
    sigma, timestep = (
        np.asarray(store.array(group, variable.name)[:])
        for variable in (schema.SIGMA, schema.TIMESTEP)
    )
    return sigma, timestep


def _export_images(plan: ExportPlan, console: Console) -> bool:
    """Write the files of all images; return whether the user stopped it."""
    entry = registry.MODELS.get(store.manifest(plan.path)["model"], _SD3)
    sigma, timestep = _levels(plan.path)
    work = image_files.Work(
        path=plan.path,
        directory=plan.directory,
        parts=plan.parts,
        layout=plan.layout,
        sigma=sigma,
        timestep=timestep,
        scale=entry.latent_scale,
        shift=entry.latent_shift,
    )
    done = 0

    def tell() -> None:
        console.print("stopping when the images in work are written; Ctrl-C again to stop now")

    with (
        reporting(console, "export", "image", len(plan.images)) as report,
        graceful_stop(tell) as stop_requested,
    ):
        try:
            for _ in parallel.results(
                partial(image_files.export_image, work),
                plan.images,
                plan.workers,
                stop_requested,
            ):
                done += 1
                report.advance(1)
        except KeyboardInterrupt:
            return True
    return done < len(plan.images)


def _write_statistics(plan: ExportPlan) -> bool:
    if legacy.ACTIVATIONS not in plan.parts:
        return False
    content = legacy_statistics.from_store(plan.path) or {}
    folder = plan.directory / legacy.ACTIVATIONS
    for name, value in content.items():
        durable.write(folder / name, json.dumps(value, indent=2).encode())
    return bool(content)


def _write_manifest(plan: ExportPlan) -> None:
    """Write the manifest of all images that are there, those of earlier exports among them."""
    prompts, seeds = store.stored_prompts(plan.path)
    marker = _read_marker(plan.directory) or {}
    there = set(marker.get("images", []))
    exported = [image in there for image in range(len(prompts))]
    manifest = legacy.manifest(_about(plan), list(zip(prompts, seeds, strict=True)), exported)
    content = json.dumps(manifest, indent=2, ensure_ascii=False)
    durable.write(plan.directory / legacy.MANIFEST, content.encode())


def _about(plan: ExportPlan) -> dict[str, Any]:
    """Values of the manifest's keys that are not about images."""
    attributes = store.manifest(plan.path)
    shape = store.array(store.open_group(plan.path, mode="r"), schema.LATENTS.name).shape
    entry = registry.MODELS.get(attributes["model"])
    old = (attributes.get("imported") or {}).get("manifest", {})
    version = (entry.repository or entry.name) if entry else None
    with_t5 = any("t5/" in file for _, file in entry.files) if entry else None
    return {
        "num_steps": attributes["num_steps"],
        "cfg_scale": attributes["cfg_weight"],
        "latent_size": old.get("latent_size", list(shape[-2:])),
        "prompt_path": attributes["prompt_source"],
        "model_version": old.get("model_version", version),
        "use_t5": old.get("use_t5", with_t5),
        "seed_base": attributes["seed"],
        "images_saved": (plan.directory / legacy.IMAGES).is_dir(),
        "latents_saved": (plan.directory / legacy.LATENTS).is_dir(),
    }


def _others(plan: ExportPlan) -> int:
    """Files of states in the directory that are not of the store's complete images."""
    folder = plan.directory / legacy.SAMPLES
    if not plan.force or not folder.is_dir():
        return 0
    num_states = len(_levels(plan.path)[0])
    parsed = (legacy.parse_state_name(file.name) for file in folder.iterdir())
    images = set(plan.images)
    return sum(
        1 for own in parsed if own is not None and (own[0] not in images or own[1] >= num_states)
    )

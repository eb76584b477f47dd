"""From a store to the directory of a file for each state."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from calibzarr import parallel, strict_json
from calibzarr.errors import disk_full_named
from calibzarr.legacy import export_plan, image_files, marker, old_format, old_statistics
from calibzarr.legacy.choices import Layout, Part
from calibzarr.legacy.export_plan import ExportPlan
from calibzarr.long_run import long_run
from calibzarr.models import builtin, registry
from calibzarr.progress import progress_console
from calibzarr.storage import durable, schema, store
from calibzarr.storage.manifest import Root


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


def export_legacy(
    path: str | Path,
    directory: str | Path,
    *,
    num_images: int | None = None,
    images: tuple[int, int] | None = None,
    only: Sequence[Part] | None = None,
    layout: Layout = "nchw",
    force: bool = False,
    workers: int | None = None,
    progress: bool | None = None,
) -> ExportResult:
    """Write a store's complete images as a directory of a compressed NumPy file for each state.

    Args:
        path: directory of the store.
        directory: where to; nothing, or an earlier export of the same store, which is added to.
        num_images: the first so many complete images.
        images: first and one past the last of the images to choose from.
        only: of ``choices.PARTS``; default all.
        layout: ``nchw``: x is (1, channel, height, width); or ``nhwc``, channels last.
        force: replace the files that are there already.
        workers: processes; default: as many as there are processors.
        progress: whether to tell of it; if None, only on a terminal or in a notebook.

    Returns:
        How it ended. A first Ctrl-C ends it after the images in work.

    Raises:
        OptionError: if a value is not allowed, or ``directory`` holds something else.
        ValueError: if the store has no complete image, cannot be used, or an image is damaged.
        OSError: if something cannot be read or written, or the disk is clearly too small.
    """
    plan = export_plan.plan(
        path,
        directory,
        num_images=num_images,
        images=images,
        only=only,
        layout=layout,
        force=force,
        workers=workers,
    )
    return run(plan, progress_console(progress))


def run(plan: ExportPlan, console: Console) -> ExportResult:
    """Export what was planned: all files of the images, then the statistics and the manifest.

    Each file is on the disk before it gets its name, and one that is there stays as it is.

    Raises:
        ValueError: if an image of the store is damaged.
        OSError: if something cannot be written; files that are whole stay.
    """

    def what_is_left() -> str:
        return "the files that are whole stay; make room, then give the same command again"

    store.noise_levels(plan.root)  # before anything is written
    with disk_full_named(what_is_left):
        _prepare(plan)
        interrupted = _export_images(plan, console)
        statistics = False
        if not interrupted:
            _mark_images(plan)
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
        (directory / old_format.MANIFEST).unlink(missing_ok=True)
        num_states = plan.root.arrays[schema.LATENTS.name]["shape"][1]
        for image in plan.images:
            for _, name in image_files.names(plan.parts, image, num_states):
                (directory / name).unlink(missing_ok=True)
    # The marker comes after: until then, what is there is not taken for this export's.
    durable.remove_abandoned(directory.glob("*.partial"))
    for name in (old_format.SAMPLES, old_format.LATENTS, old_format.IMAGES):
        if name in plan.parts:
            (directory / name).mkdir(exist_ok=True)
            durable.remove_abandoned((directory / name).glob("*.partial"))
    there, begun = marker.read(directory), marker.begun(plan.root, plan.layout)
    if there is None or not there.is_of(begun):
        marker.write(directory, begun)


def _levels(root: Root) -> tuple[np.ndarray, np.ndarray]:
    """Sigma and timestep of every state."""
    timestep = store.array(store.open_group(root, mode="r"), schema.TIMESTEP.name)
    return store.noise_levels(root), np.asarray(timestep[:])


def _export_images(plan: ExportPlan, console: Console) -> bool:
    """Write the files of all images; return whether the user stopped it."""
    entry = (
        registry.find_if_known(plan.root.attributes["model"])
        or builtin.SD3_MEDIUM  # whose latents they are where the model is not known
    )
    sigma, timestep = _levels(plan.root)
    work = image_files.Work(
        root=plan.root,
        directory=plan.directory,
        parts=plan.parts,
        layout=plan.layout,
        sigma=sigma,
        timestep=timestep,
        scale=entry.latent_scale,
        shift=entry.latent_shift,
    )
    export_image, num_images = partial(image_files.export_image, work), len(plan.images)
    done = 0
    with long_run(
        console, "export", "image", num_images, stopping="when the images in work are written"
    ) as run:
        for _ in parallel.results(export_image, plan.images, plan.workers, run.stop_requested):
            done += 1
            run.report.advance(1)
    return done < num_images


def _mark_images(plan: ExportPlan) -> None:
    """Add the images to those of earlier exports in the marker."""
    begun = marker.begun(plan.root, plan.layout)
    images = {*_marked_images(plan.directory), *plan.images}
    marker.write(plan.directory, replace(begun, images=tuple(images)))


def _marked_images(directory: Path) -> tuple[int, ...]:
    there = marker.read(directory)
    return () if there is None else there.images


def _write_statistics(plan: ExportPlan) -> bool:
    if old_format.ACTIVATIONS not in plan.parts:
        return False
    content = old_statistics.from_store(plan.root) or {}
    folder = plan.directory / old_format.ACTIVATIONS
    for name, value in content.items():
        durable.write(folder / name, strict_json.dumps(value, indent=2).encode())
    return bool(content)


def _write_manifest(plan: ExportPlan) -> None:
    """Write the manifest of all images that are there, those of earlier exports among them."""
    prompts, seeds = store.stored_prompts(plan.root)
    there = set(_marked_images(plan.directory))
    exported = [image in there for image in range(len(prompts))]
    manifest = old_format.manifest(_about(plan), list(zip(prompts, seeds, strict=True)), exported)
    content = strict_json.dumps(manifest, indent=2, ensure_ascii=False)
    # Bytes of a path that are no text become escapes, which JSON reads.
    durable.write(plan.directory / old_format.MANIFEST, content.encode("utf-8", "backslashreplace"))


def _about(plan: ExportPlan) -> dict[str, Any]:
    """Values of the manifest's keys that are not about images."""
    attributes = plan.root.attributes
    shape = plan.root.arrays[schema.LATENTS.name]["shape"]
    entry = registry.find_if_known(attributes["model"])
    old = (attributes.get(schema.IMPORTED) or {}).get("manifest", {})
    version = (entry.repository or entry.name) if entry else None
    with_t5 = any("t5/" in file for _, file in entry.files) if entry else None
    return {
        "num_steps": attributes["num_steps"],
        "cfg_scale": attributes["cfg_weight"],
        "latent_size": old.get("latent_size", shape[-2:]),
        "prompt_path": attributes["prompt_source"],
        "model_version": old.get("model_version", version),
        "use_t5": old.get("use_t5", with_t5),
        "seed_base": attributes["seed"],
        "images_saved": (plan.directory / old_format.IMAGES).is_dir(),
        "latents_saved": (plan.directory / old_format.LATENTS).is_dir(),
    }


def _others(plan: ExportPlan) -> int:
    """Files of states in the directory that are not of the store's complete images."""
    folder = plan.directory / old_format.SAMPLES
    if not plan.force or not folder.is_dir():
        return 0
    num_states = plan.root.arrays[schema.LATENTS.name]["shape"][1]
    parsed = (old_format.parse_state_name(file.name) for file in folder.iterdir())
    images = set(plan.images)
    return sum(
        indices is not None and (indices[0] not in images or indices[1] >= num_states)
        for indices in parsed
    )

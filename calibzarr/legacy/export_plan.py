"""What an export will write to an old directory: planned, and checked, before it is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibzarr import parallel
from calibzarr.errors import (
    Option,
    OptionError,
    StoreError,
    at_least,
    image_range,
)
from calibzarr.legacy import marker, old_format
from calibzarr.legacy.choices import LAYOUTS, PARTS, Layout, Part
from calibzarr.storage import objects, schema, store
from calibzarr.storage.manifest import Root, read_root

_NAMES = (
    old_format.SAMPLES,
    old_format.LATENTS,
    old_format.IMAGES,
    old_format.MANIFEST,
    old_format.ACTIVATIONS,
)


@dataclass(frozen=True)
class ExportPlan:
    """What an export will write, planned and checked before anything is written.

    Attributes:
        root: of the store, as it is now.
        directory: where to.
        images: those to export, complete ones all.
        left_out: images that were asked for and are not complete.
        parts: of ``choices.PARTS``.
        layout: of the states, one of ``choices.LAYOUTS``.
        force: whether to replace what is there.
        workers: processes.
    """

    root: Root
    directory: Path
    images: tuple[int, ...]
    left_out: tuple[int, ...]
    parts: tuple[str, ...]
    layout: str
    force: bool
    workers: int

    @property
    def path(self) -> Path:
        """Directory of the store."""
        return self.root.path


def plan(
    path: str | Path,
    directory: str | Path,
    *,
    num_images: int | None = None,
    images: tuple[int, int] | None = None,
    only: Sequence[Part] | None = None,
    layout: Layout = "nchw",
    force: bool = False,
    workers: int | None = None,
) -> ExportPlan:
    """Plan what to export; write nothing. See :func:`calibzarr.legacy.exporting.export_legacy`."""
    root, directory = read_root(Path(path)), Path(directory)
    prompts, _ = store.stored_prompts(root)
    if layout not in LAYOUTS:
        allowed = " or ".join(LAYOUTS)
        raise OptionError(Option("layout"), f" must be {allowed}, got {layout!r}")
    if workers is not None:
        at_least("workers", workers, 1)
    chosen, left_out = _choose_images(root.path, len(prompts), num_images, images)
    plan = ExportPlan(
        root=root,
        directory=directory,
        images=tuple(chosen),
        left_out=tuple(left_out),
        parts=_choose_parts(only),
        layout=layout,
        force=force,
        workers=min(workers or parallel.default_workers(), len(chosen)),
    )
    _check_directory(plan)
    _check_room(plan)
    return plan


def _choose_images(
    path: Path, available: int, num_images: int | None, images: tuple[int, int] | None
) -> tuple[list[int], list[int]]:
    """Images to export, and those that were asked for and are not complete."""
    if num_images is not None:
        at_least("num_images", num_images, 1)
    asked = range(available) if images is None else image_range(images, available, cut=True)
    complete = store.completed(path, available)
    chosen = [image for image in asked if complete[image]][:num_images]
    if not chosen:
        raise StoreError(
            f"no image of {asked.start}:{asked.stop} is complete in {path}; there is nothing to do"
        )
    end = chosen[-1] + 1 if num_images == len(chosen) else asked.stop
    return chosen, [image for image in range(asked.start, end) if not complete[image]]


def _choose_parts(only: Sequence[str] | None) -> tuple[str, ...]:
    for name in only or ():
        if name not in PARTS:
            allowed = ", ".join(PARTS)
            raise OptionError(Option("only"), f" must be some of {allowed}; got {name!r}")
    return tuple(name for name in PARTS if only is None or name in only)


def _check_directory(plan: ExportPlan) -> None:
    """Check that the export may be written where it is to go."""
    directory, path = plan.directory, plan.path.resolve()
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; an export is a directory")
    inside = path in (directory.resolve(), *directory.resolve().parents)
    if (directory / "zarr.json").exists() or inside:
        raise OptionError(f"{directory} is a store, or in one; choose another directory")
    objects.check_writable(directory)
    held = None if plan.force else _held_besides(plan)
    if held is not None:
        raise OptionError(
            f"{directory} {held}; choose another directory, or replace the files of the same "
            f"names with ",
            Option("force"),
        )


def _held_besides(plan: ExportPlan) -> str | None:
    """What a directory holds that is not of this export, in words; None if there is nothing."""
    there, ours = marker.read(plan.directory), marker.begun(plan.root, plan.layout)
    if there is not None:
        if there.is_of(ours):
            return None
        if there.store == ours.store:
            return f"is an export in the layout {there.layout}"
        return "is an export of another store"
    found = next((name for name in _NAMES if (plan.directory / name).exists()), None)
    return found and f"has {found} already, and is no export of {plan.path}"


def _check_room(plan: ExportPlan) -> None:
    """Check that the disk is not clearly too small for an export that is not there yet."""
    if old_format.SAMPLES not in plan.parts or marker.read(plan.directory) is not None:
        return
    shape = plan.root.arrays[schema.LATENTS.name]["shape"]
    needed = objects.STORED_FRACTION * 4 * np.prod(shape[1:]) * len(plan.images)
    objects.check_room(plan.directory, needed, "make room, or export fewer images")

"""Bringing a store in order again, as far as that is possible without making images."""

import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from calibzarr.errors import Call, Message, StoreError, at_least, disk_full_named
from calibzarr.integrity import regeneration, rehearsal, remedies, restoration, set_aside
from calibzarr.integrity.findings import Finding
from calibzarr.integrity.image_checks import check_images
from calibzarr.integrity.opened import Opened, open_for_checks
from calibzarr.integrity.restoration import ASIDE, Restored
from calibzarr.integrity.root_repair import Lost, repair_root
from calibzarr.progress import progress_console
from calibzarr.storage import commit, copies, durable, objects, schema, store
from calibzarr.storage.manifest import NewerFormat, looks_like_a_store, read_root


@dataclass(frozen=True)
class RepairResult:
    """What a repair did.

    Attributes:
        path: directory of the store.
        num_images: images of the store.
        n_completed: images complete in it now.
        actions: what was done, or would be, in words.
        set_aside: images whose files were moved aside, and which are to be built again.
        needed: what is still wrong, and only the user can mend, in words.
        calls: what to run next.
    """

    path: Path
    num_images: int
    n_completed: int
    actions: tuple[str, ...]
    set_aside: tuple[int, ...]
    needed: tuple[str | Message, ...]
    calls: tuple[Call, ...]


def repair(
    path: str | Path,
    *,
    dry_run: bool = False,
    prompts: str | Path | None = None,
    model: str | None = None,
    cfg_weight: float | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> RepairResult:
    """Bring a store in order: metadata, coordinates, what is complete. Nothing is deleted.

    Images that are damaged are moved into ``latents/damaged``: ``build`` with ``resume`` makes them
    again. May be interrupted at any moment, and given again.

    Args:
        path: directory of the store.
        dry_run: find out what would be done, and change nothing.
        prompts: the prompt file that it was built from, if prompts or seeds are lost.
        model: what it was built with, if the manifest is lost with its copy.
        cfg_weight: the same; the model's default if not given.
        batch_size: the same; 1 if not given.
        progress: whether to tell of it; if None, only on a terminal or in a notebook.

    Returns:
        What was done, or would be, and what is left to do.

    Raises:
        FileNotFoundError: if nothing is at ``path``.
        OptionError: if a value is not allowed, or the manifest is lost and no model is given.
        ValueError: if it is no calibzarr store, or what was given is not what it was built with.
        DiskFullError: if there is no room; what is mended stays.
        OSError: if it cannot be written.
    """
    path, console = Path(path), progress_console(progress)
    if batch_size is not None:
        at_least("batch_size", batch_size, 1)
    lost = Lost(model, cfg_weight, batch_size)
    file = None if prompts is None else Path(prompts)
    if not dry_run:
        objects.check_writable(path)
        with disk_full_named(lambda: _stays(path, lost, file)):
            return _repair(path, lost, file, console)
    with rehearsal.mirror(path) as mirror:
        try:
            found = _repair(mirror, lost, file, console)
        except ValueError as error:
            raise rehearsal.of_store(error, mirror, path) from error
    actions, needed, calls = (
        tuple(rehearsal.of_store(told, mirror, path) for told in all_told)
        for all_told in (found.actions, found.needed, found.calls)
    )
    return replace(found, path=path, actions=actions, needed=needed, calls=calls)


def _stays(path: Path, lost: Lost, prompts: Path | None) -> Message:
    """What a full disk leaves of a repair, and the same call again."""
    given = {name: value for name, value in vars(lost).items() if value is not None}
    again = Call("repair", (path,), {**({} if prompts is None else {"prompts": prompts}), **given})
    return Message("what is mended stays, and nothing more is lost; make room, then: ", again)


def _repair(path: Path, lost: Lost, prompts: Path | None, console: Console) -> RepairResult:
    _refuse_what_is_no_store(path)
    with durable.locked(path):
        actions = [*_go_on(path), *repair_root(path, lost)]
        done = restoration.restore(read_root(path), prompts)
    removed = store.remove_leftovers(path)
    leftovers = [f"removed {removed} leftovers of interrupted writes"] if removed else []
    done.actions = [*actions, *done.actions, *leftovers]
    root = read_root(path)
    opened = open_for_checks(root)
    damaged = _repair_images(opened, done, console)
    n_completed = _mark_complete(opened, done)
    if n_completed < root.num_images:
        done.calls.insert(0, remedies.of_images(root))
    return RepairResult(
        path=path,
        num_images=root.num_images,
        n_completed=n_completed,
        actions=tuple(done.actions),
        set_aside=tuple(damaged),
        needed=tuple(done.needed),
        calls=(*done.calls, Call("verify", (path,))),
    )


def _refuse_what_is_no_store(path: Path) -> None:
    try:
        read_root(path)
    except StoreError as error:
        if isinstance(error, NewerFormat) or not looks_like_a_store(path):
            raise


def _go_on(path: Path) -> list[str]:
    """Finish what a killed process left half done, or move it aside if it cannot be."""
    try:
        return ["finished a change that was interrupted"] if commit.go_on(path) else []
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.EROFS):
            raise
        set_aside.move(path, path / commit.NEXT)
        return [f"moved a change that was interrupted to {ASIDE}, for it is damaged"]


def _repair_images(opened: Opened, done: Restored, console: Console) -> list[int]:
    """Decode pictures anew, and move other damaged images aside; return these."""
    findings = [f for f in check_images(opened, console).findings if f.image is not None]
    wrong = {finding.image for finding in findings if finding.check != "picture"}
    without_picture = [f.image for f in findings if f.image is not None and f.image not in wrong]
    decoded = regeneration.decode_again(opened, without_picture)
    if decoded:
        images = ", ".join(map(str, decoded))
        done.actions.append(f"decoded the pictures of images {images} from their states again")
    damaged, reasons = _damaged_images(
        opened, [finding for finding in findings if finding.image not in decoded]
    )
    for image in damaged:
        for variable in (schema.LATENTS, schema.DECODED):
            set_aside.move(opened.path, opened.file(variable, image))
        done.actions.append(f"moved image {image} to {ASIDE}: {reasons[image]}")
    done.needed += [reason for image, reason in reasons.items() if image not in damaged]
    return damaged


def _damaged_images(
    opened: Opened, findings: Sequence[Finding]
) -> tuple[list[int], dict[int, str]]:
    """Images that are damaged, in order, and the first reason for each image with a finding."""
    reasons = {
        finding.image: finding.message
        for finding in reversed(findings)
        if finding.image is not None
    }
    alike = {_kind(finding) for finding in findings if finding.image is not None}
    if len(reasons) > 1 and len(reasons) == opened.complete.sum() and len(alike) == 1:
        first = min(reasons)  # it is not the images that are wrong, but what they are read by
        return [], {first: f"no image is as it should be, and all for one reason: {reasons[first]}"}
    return sorted(reasons), reasons


def _kind(finding: Finding) -> str:
    """What is wrong with an image, without its numbers."""
    return finding.check + re.sub(r"\d+", "", finding.message.rpartition("/")[2])


def _mark_complete(opened: Opened, done: Restored) -> int:
    """Take back marks of images that are not there; return how many are complete."""
    complete = store.completed(opened.path, len(opened.complete))
    marks = opened.coordinates.get(schema.COMPLETE.name, complete)
    n_completed, counted = int(complete.sum()), opened.attributes.get("n_completed")
    wrong = isinstance(counted, int) and counted > n_completed
    rebuilt = not opened.root.indexed and (opened.path / copies.FOLDER).exists()
    contradicts = not opened.root.indexed and done.needed  # and must get no index
    wrong = wrong or (marks & ~complete).any() or (rebuilt and counted != n_completed)
    if wrong and not contradicts:
        store.finish(opened.path)
        done.actions.append(f"marked {n_completed} images as complete")
    return n_completed

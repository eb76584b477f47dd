"""Bringing a store in order again, as far as that is possible without making images."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from rich.console import Console

from calibzarr.errors import Call, Explained, Message, OptionError, StoreError, at_least
from calibzarr.integrity import sensitivity_checks, set_aside, statistics_checks
from calibzarr.integrity.coordinate_repair import repair_coordinates, replace_coordinate
from calibzarr.integrity.findings import Finding, Tally
from calibzarr.integrity.image_checks import check_images
from calibzarr.integrity.metadata_checks import has
from calibzarr.integrity.metadata_repair import Lost, repair_metadata
from calibzarr.integrity.opened import Opened, open_for_checks
from calibzarr.progress import progress_console
from calibzarr.quantization.choices import CLIPS
from calibzarr.storage import durable, objects, schema, staging, store
from calibzarr.storage.manifest import Root, publish, read_root
from calibzarr.storage.variable import Addition

_Check = Callable[[zarr.Group, Mapping[str, Any], np.ndarray], Tally]

_ASIDE = set_aside.directory(Path())  # as users know it, within the store


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
        progress: whether to tell of it; if None, only on a terminal.

    Raises:
        FileNotFoundError: if nothing is at ``path``.
        OptionError: if a value is not allowed, or the manifest is lost and no model is given.
        ValueError: if it is no calibzarr store, or what was given is not what it was built with.
        OSError: if it cannot be written.
    """
    path, console = Path(path), progress_console(progress)
    if batch_size is not None:
        at_least("batch_size", batch_size, 1)
    lost = Lost(model, cfg_weight, batch_size)
    file = None if prompts is None else Path(prompts)
    if not dry_run:
        objects.check_writable(path)
        return _repair(path, lost, file, console)
    with _mirror(path) as mirror:
        try:
            found = _repair(mirror, lost, file, console)
        except ValueError as error:
            raise _of_store(error, mirror, path) from error
    return replace(
        found,
        path=path,
        actions=tuple(action.replace(str(mirror), str(path)) for action in found.actions),
        needed=tuple(_renamed(Message(need), mirror, path) for need in found.needed),
        calls=tuple(_renamed_call(call, mirror, path) for call in found.calls),
    )


@contextmanager
def _mirror(path: Path) -> Iterator[Path]:
    """A directory like another, of links to its files: what is written there stays there."""
    if not path.is_dir():
        yield path  # to be refused
        return
    with tempfile.TemporaryDirectory(prefix="calibzarr-") as temporary:
        mirror = Path(temporary) / path.resolve().name
        for source, _, files in os.walk(path.resolve()):
            target = mirror / Path(source).relative_to(path.resolve())
            target.mkdir()
            for name in files:
                (target / name).symlink_to(Path(source) / name)
        yield mirror


def _of_store(error: ValueError, mirror: Path, path: Path) -> ValueError:
    """An error about a mirror as one about the store itself."""
    message = error.message if isinstance(error, Explained) else Message(str(error))
    kind = OptionError if isinstance(error, OptionError) else StoreError
    return kind(_renamed(message, mirror, path))


def _renamed(message: Message, mirror: Path, path: Path) -> Message:
    """A message about a mirror as one about the store itself."""
    return Message(
        *(
            part.replace(str(mirror), str(path))
            if isinstance(part, str)
            else _renamed_call(part, mirror, path)
            if isinstance(part, Call)
            else part
            for part in message.parts
        )
    )


def _renamed_call(call: Call, mirror: Path, path: Path) -> Call:
    return replace(
        call, arguments=tuple(path if word == mirror else word for word in call.arguments)
    )


def _repair(path: Path, lost: Lost, prompts: Path | None, console: Console) -> RepairResult:
    with durable.locked(path) if path.is_dir() else nullcontext():
        actions = repair_metadata(path, lost)
    for addition in schema.ADDITIONS:
        actions += _install(path, addition)
    removed = store.remove_leftovers(path)
    if removed:
        actions.append(f"removed {removed} leftovers of interrupted writes")
    with durable.locked(path):
        return _repair_content(read_root(path), actions, prompts, console)


def _install(path: Path, addition: Addition) -> list[str]:
    """Put what a killed process left staged into its place, or aside if it cannot be used."""
    try:
        installed = staging.install(path, addition)
    except (ValueError, LookupError, TypeError, FileNotFoundError) as error:
        set_aside.move(path, path / addition.staged)
        return [f"moved new {addition.title} to {_ASIDE}, for they are damaged: {error}"]
    return [f"put new {addition.title} into their place"] if installed else []


def _repair_content(
    root: Root, actions: list[str], prompts: Path | None, console: Console
) -> RepairResult:
    complete = store.completed(root.path, root.attributes["num_images"])
    done, needed = repair_coordinates(open_for_checks(root, complete), prompts)
    opened = open_for_checks(root, complete)  # with the coordinates as they are now
    damaged, reasons = _damaged_images(opened, check_images(opened, console).findings)
    for image in damaged:
        for variable in (schema.LATENTS, schema.DECODED):
            set_aside.move(root.path, root.path / variable.name / variable.key(image))
        done.append(f"moved image {image} to {_ASIDE}: {reasons[image]}")
    needed += [reason for image, reason in reasons.items() if image not in damaged]
    n_completed = _mark_complete(opened, done)
    calls = [_call_for_images(root)] if n_completed < len(complete) else []
    for addition, check, call_for in _CHECKED:
        error = _error(opened, addition, check)
        if error is not None:
            done += _set_aside(root, addition, error)
            calls.append(call_for(root))
    calls.append(Call("verify", (root.path,)))
    return RepairResult(
        path=root.path,
        num_images=len(complete),
        n_completed=n_completed,
        actions=(*actions, *done),
        set_aside=tuple(damaged),
        needed=tuple(needed),
        calls=tuple(calls),
    )


def _damaged_images(
    opened: Opened, findings: Sequence[Finding]
) -> tuple[list[int], dict[int, str]]:
    """Images that are damaged, in order, and the first reason for each image with a finding."""
    reasons = {
        finding.image: finding.message
        for finding in reversed(findings)
        if finding.image is not None
    }
    if len(reasons) > 1 and len(reasons) == opened.complete.sum():
        checks = {finding.check for finding in findings}
        if checks <= {"noise", "euler"}:  # then it is the seeds or the schedule that are wrong
            first = min(reasons)
            return [], {first: f"no image fits its seed or the schedule: {reasons[first]}"}
    return sorted(reasons), reasons


def _mark_complete(opened: Opened, done: list[str]) -> int:
    """Write ``complete`` and ``n_completed`` from the keys; return how many are complete."""
    complete = store.completed(opened.path, len(opened.complete))
    marks = opened.coordinates.get(schema.COMPLETE.name)
    if marks is None or not np.array_equal(marks, complete):
        replace_coordinate(opened.path, schema.COMPLETE, complete)
        done.append(f"marked {complete.sum()} images as complete")
    n_completed = int(complete.sum())
    if opened.attributes.get("n_completed") != n_completed:
        publish(opened.path, {"n_completed": n_completed})
        done.append(f"set n_completed to {n_completed}")
    return n_completed


def _error(opened: Opened, addition: Addition, check: _Check) -> str | None:
    """What is wrong with an addition, but for images that it covers and that are not there."""
    if not has(opened.attributes, addition):
        return None
    found = check(opened.group, opened.attributes, opened.complete).findings
    return next((finding.message for finding in found if finding.image is None), None)


def _set_aside(root: Root, addition: Addition, error: str) -> list[str]:
    """Move an addition aside; return what was done.

    Sensitivities stay when statistics go: they were measured with the model, their rows are its
    layers, and they get their names back when statistics are collected again.
    """
    path = root.path
    staging.unpublish(path, addition)
    for name in addition.names:
        set_aside.move(path, path / name)
    return [f"moved the {addition.title} to {_ASIDE}: {error}"]


def _call_for_images(root: Root) -> Call:
    """The call that makes the missing images."""
    if schema.IMPORTED in root.attributes:
        return Call("import_legacy", ("DIR", root.path))
    return Call("build", (root.path,), {"resume": True})


def _call_for_statistics(root: Root) -> Call:
    """The call that collects the same steps of as many images, where that is known."""
    with suppress(KeyError, TypeError, ValueError):
        about: Any = root.attributes[schema.ACTIVATIONS]
        same = {"num_images": int(about["num_images"]), "steps": [int(k) for k in about["steps"]]}
        return Call("collect", (root.path,), same)
    return Call("collect", (root.path,))


def _call_for_sensitivities(root: Root) -> Call:
    """The call that measures the same steps with as many images and probes, where that is known."""
    with suppress(KeyError, TypeError, ValueError):
        about: Any = root.attributes[schema.SENSITIVITY]
        same: dict[str, Any] = {
            "images": int(about["num_images"]),
            "probes": int(about["num_probes"]),
            "steps": [int(step) for step in about["steps"]],
        }
        if about["clip"] in CLIPS:
            same["clip"] = about["clip"]
        return Call("sensitivity", (root.path,), same)
    return Call("sensitivity", (root.path,))


_CHECKED: tuple[tuple[Addition, _Check, Callable[[Root], Call]], ...] = (
    (schema.COLLECTION, statistics_checks.check, _call_for_statistics),
    (schema.MEASUREMENT, sensitivity_checks.check, _call_for_sensitivities),
)

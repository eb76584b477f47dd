"""Bringing a store in order again, as far as that is possible without making images."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from calibzarr.errors import Call
from calibzarr.integrity import set_aside, statistics_checks
from calibzarr.integrity.coordinate_repair import repair_coordinates, replace_coordinate
from calibzarr.integrity.findings import Finding
from calibzarr.integrity.image_checks import check_images
from calibzarr.integrity.metadata_checks import has_statistics
from calibzarr.integrity.metadata_repair import Lost, repair_metadata
from calibzarr.integrity.opened import Opened, open_for_checks
from calibzarr.storage import collected, durable, objects, schema, staging, store
from calibzarr.storage.manifest import publish, read_root


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
    needed: tuple[str, ...]
    calls: tuple[Call, ...]


def repair(
    path: str | Path,
    *,
    dry_run: bool = False,
    prompts: str | Path | None = None,
    model: str | None = None,
    cfg_weight: float | None = None,
    batch_size: int | None = None,
    console: Console | None = None,
) -> RepairResult:
    """Bring a store in order: metadata, coordinates, what is complete. Nothing is deleted.

    Images that are damaged are moved into ``latents/damaged``: ``build --resume`` makes them again.
    May be interrupted at any moment, and given again.

    Args:
        path: directory of the store.
        dry_run: find out what would be done, and change nothing.
        prompts: the prompt file that it was built from, if prompts or seeds are lost.
        model: what it was built with, if the manifest is lost with its copy.
        cfg_weight: the same; the model's default if not given.
        batch_size: the same; 1 if not given.
        console: where to report progress; silent if not given.

    Raises:
        FileNotFoundError: if nothing is at ``path``.
        OptionError: if a value is not allowed, or the manifest is lost and no model is given.
        ValueError: if it is no calibzarr store, or what was given is not what it was built with.
        OSError: if it cannot be written.
    """
    path, console = Path(path), console or Console(quiet=True)
    lost = Lost(model, cfg_weight, batch_size)
    file = None if prompts is None else Path(prompts)
    if not dry_run:
        objects.check_writable(path)
        return _repair(path, lost, file, console)
    with _mirror(path) as mirror:
        try:
            found = _repair(mirror, lost, file, console)
        except ValueError as error:
            raise type(error)(str(error).replace(str(mirror), str(path))) from error
    calls = tuple(
        replace(call, arguments=tuple(path if word == mirror else word for word in call.arguments))
        for call in found.calls
    )
    return replace(found, path=path, calls=calls)


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


def _repair(path: Path, lost: Lost, prompts: Path | None, console: Console) -> RepairResult:
    with durable.locked(path) if path.is_dir() else nullcontext():
        actions = repair_metadata(path, lost)
    if collected.install(path):
        actions.append("put new statistics into their place")
    removed = store.remove_leftovers(path)
    if removed:
        actions.append(f"removed {removed} leftovers of interrupted writes")
    with durable.locked(path):
        return _repair_content(path, actions, prompts, console)


def _repair_content(
    path: Path, actions: list[str], prompts: Path | None, console: Console
) -> RepairResult:
    attributes = read_root(path).attributes
    complete = store.completed(path, attributes["num_images"])
    opened = open_for_checks(path, attributes, complete)
    done, needed = repair_coordinates(opened, prompts)
    opened = open_for_checks(path, attributes, complete)
    found = check_images(opened, console)
    doubtful, reasons = _doubtful_images(opened, found.findings)
    for image in doubtful:
        set_aside.move(path, path / schema.LATENTS.name / schema.LATENTS.key(image))
        set_aside.move(path, path / schema.DECODED.name / schema.DECODED.key(image))
        done.append(f"moved image {image} to {set_aside.directory(Path())}: {reasons[image]}")
    needed += [reason for image, reason in reasons.items() if image not in doubtful]
    n_completed = _mark_complete(opened, done)
    calls = [Call("verify", (path,))]
    if has_statistics(attributes):
        wrong = statistics_checks.check(opened.group, attributes, complete).findings
        reason = next((each.message for each in wrong if each.image is None), None)
        if reason is not None:
            _set_aside_statistics(path)
            done.append(f"moved the statistics to {set_aside.directory(Path())}: {reason}")
            again = _same_collection(attributes[schema.ACTIVATIONS])
            calls.insert(0, Call("collect", (path,), again))
    if n_completed < len(complete):
        imported = Call("import_legacy", ("DIR", path))
        built = Call("build", (path,), {"resume": True})
        calls.insert(0, imported if schema.IMPORTED in attributes else built)
    return RepairResult(
        path,
        len(complete),
        n_completed,
        (*actions, *done),
        tuple(doubtful),
        tuple(needed),
        tuple(calls),
    )


def _set_aside_statistics(path: Path) -> None:
    staging.unpublish(path, schema.COLLECTION)
    for name in schema.COLLECTION.names:
        set_aside.move(path, path / name)


def _same_collection(activations: Any) -> dict[str, Any]:
    """Keywords that collect the same steps of as many images, where that is known."""
    try:
        steps = [int(step) for step in activations["steps"]]
        return {"num_images": int(activations["num_images"]), "steps": steps}
    except (KeyError, TypeError, ValueError):
        return {}


def _doubtful_images(
    opened: Opened, findings: Sequence[Finding]
) -> tuple[list[int], dict[int, str]]:
    """Images that are damaged, in order, and the first reason for each image with a finding."""
    reasons = {finding.image: finding.message for finding in reversed(findings)}
    known = {image: reason for image, reason in reasons.items() if image is not None}
    if len(known) > 1 and len(known) == opened.complete.sum():
        checks = {finding.check for finding in findings}
        if checks <= {"noise", "euler"}:  # then it is the seeds or the schedule that are wrong
            first = min(known)
            return [], {first: f"no image fits its seed or the schedule: {known[first]}"}
    return sorted(known), known


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

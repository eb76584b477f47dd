"""Bringing a store in order again, as far as that is possible without making images."""

import errno
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from calibzarr.errors import Call, Message, StoreError, at_least
from calibzarr.integrity import files, rehearsal, remedies, set_aside
from calibzarr.integrity.coordinate_repair import replace_coordinates, right_coordinates
from calibzarr.integrity.findings import Finding
from calibzarr.integrity.image_checks import check_images
from calibzarr.integrity.opened import Opened, open_for_checks
from calibzarr.integrity.root_repair import Lost, repair_root
from calibzarr.progress import progress_console
from calibzarr.storage import commit, copies, durable, identities, objects, schema, store
from calibzarr.storage.manifest import FILE, NewerFormat, Root, looks_like_a_store, read_root
from calibzarr.storage.variable import Addition

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
    with rehearsal.mirror(path) as mirror:
        try:
            found = _repair(mirror, lost, file, console)
        except ValueError as error:
            raise rehearsal.of_store(error, mirror, path) from error
    return replace(
        found,
        path=path,
        actions=tuple(action.replace(str(mirror), str(path)) for action in found.actions),
        needed=tuple(rehearsal.renamed(Message(need), mirror, path) for need in found.needed),
        calls=tuple(rehearsal.renamed_call(call, mirror, path) for call in found.calls),
    )


def _repair(path: Path, lost: Lost, prompts: Path | None, console: Console) -> RepairResult:
    _refuse_what_is_no_store(path)
    with durable.locked(path):
        actions = [*_go_on(path), *repair_root(path, lost)]
        root = read_root(path)
        unmended, done = _put_files_back(root)
        root = read_root(path)  # the index may have another name
        actions += done
    removed = store.remove_leftovers(path)
    if removed:
        actions.append(f"removed {removed} leftovers of interrupted writes")
    return _repair_content(root, actions, unmended, prompts, console)


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
        return [f"moved a change that was interrupted to {_ASIDE}, for it is damaged"]


def _put_files_back(root: Root) -> tuple[set[str], list[str]]:
    """Restore what copies tell, byte for byte, and move aside what is not calibzarr's.

    Returns:
        Files that are still wrong, and what was done, in words.
    """
    if not root.indexed:
        return _put_metadata_back(root)
    path, done = root.path, _restore_index(root)
    root = read_root(path)
    wrong, index = files.differences(root), files.expected(root)
    surplus = [file for file in wrong if file not in index]
    for file in surplus:
        set_aside.move(path, path / file)
    if surplus:
        done.append(f"moved to {_ASIDE}: {', '.join(surplus)}")
    kept, restored = copies.read_coordinates(path), []
    for file in sorted(wrong.keys() - set(surplus), key=lambda file: file == copies.COORDINATES):
        content = _kept(root, file, kept)
        if content is not None and {copies.sha256(content)} == index[file]:
            _replace(root, file, content)
            restored.append(file)
    if restored:
        done.append(f"restored {', '.join(restored)}")
    return wrong.keys() - {*surplus, *restored}, done


def _kept(root: Root, file: str, coordinates: Mapping[str, bytes]) -> bytes | None:
    """What a file was by a second copy of it, if there is one."""
    name, _, key = file.partition("/")
    if file == copies.GROUP:
        return copies.GROUP_CONTENT
    if key == FILE and name in root.arrays:
        return copies.as_bytes(root.arrays[name])
    if file == copies.COORDINATES:
        chunks = [one for one in files.expected(root) if copies.is_copied(one)]
        with suppress(OSError):
            return copies.coordinates_content({f: durable.read(root.path / f) for f in chunks})
    return coordinates.get(file)


def _replace(root: Root, file: str, content: bytes) -> None:
    """Write a file in the place of a damaged one, which is kept."""
    target = root.path / file
    set_aside.move(root.path, target if target.parent.is_dir() else target.parent)
    durable.write(target, content)


def _restore_index(root: Root) -> list[str]:
    """The index is what the files say, where they say what its name wants."""
    name = root.attributes[copies.ATTRIBUTE]["index"]
    with suppress(StoreError):
        copies.read_index(root.path, name)
        return []
    found = copies.hashes(root.path, root.arrays.keys() & schema.NAMES)
    files_now = {file: sha for file, sha in found.items() if sha is not None}
    content = copies.index_content(files_now)
    if copies.sha256(content) == name:
        _replace(root, copies.index_file(name), content)
        return ["restored the index of files"]
    contradictions = identities.errors(root)
    if contradictions:
        raise StoreError(f"{root.path} has lost the index of its files, and {contradictions[0]}")
    with commit.changing(root, files_now):
        pass  # root, index and copies anew
    return ["made the index of files anew, for nothing contradicts itself"]


def _put_metadata_back(root: Root) -> tuple[set[str], list[str]]:
    """The same for a store of 0.1: arrays' own metadata, from what the root says."""
    restored = []
    for name in sorted(root.arrays.keys() & schema.NAMES):
        stored = None
        with suppress(OSError, StoreError):
            stored = copies.parse(root.path / name / FILE)
        if stored != root.arrays[name]:
            _replace(root, f"{name}/{FILE}", copies.as_bytes(root.arrays[name]))
            restored.append(name)
    return set(), [f"restored the metadata of {', '.join(restored)}"] if restored else []


def _repair_content(
    root: Root, actions: list[str], unmended: set[str], prompts: Path | None, console: Console
) -> RepairResult:
    calls = []
    for addition in schema.ADDITIONS:
        error = _error(root, addition, unmended)
        if error is not None:
            actions += _set_aside(root, addition, error)
            calls.append(remedies.OF_ADDITIONS[addition.attribute](root))
            root = read_root(root.path)
    complete = store.completed(root.path, root.num_images)
    opened, needed = open_for_checks(root, complete), list[str | Message]()
    if not root.indexed or prompts is not None or any(map(copies.is_copied, unmended)):
        values, needed = right_coordinates(opened, prompts)
        actions += replace_coordinates(root, values)
        root = read_root(root.path)
        opened = open_for_checks(root, complete)
    damaged, reasons = _damaged_images(opened, check_images(opened, console).findings)
    for image in damaged:
        for variable in (schema.LATENTS, schema.DECODED):
            set_aside.move(root.path, root.path / variable.name / variable.key(image))
        actions.append(f"moved image {image} to {_ASIDE}: {reasons[image]}")
    needed += [reason for image, reason in reasons.items() if image not in damaged]
    n_completed = _mark_complete(opened, actions)
    if n_completed < len(complete):
        calls.insert(0, remedies.of_images(root))
    calls.append(Call("verify", (root.path,)))
    return RepairResult(
        path=root.path,
        num_images=len(complete),
        n_completed=n_completed,
        actions=tuple(actions),
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
    alike = {_kind(finding) for finding in findings if finding.image is not None}
    if len(reasons) > 1 and len(reasons) == opened.complete.sum() and len(alike) == 1:
        first = min(reasons)  # it is not the images that are wrong, but what they are read by
        return [], {first: f"no image is as it should be, and all for one reason: {reasons[first]}"}
    return sorted(reasons), reasons


def _kind(finding: Finding) -> str:
    """What is wrong with an image, without its numbers."""
    return finding.check + re.sub(r"\d+", "", finding.message.rpartition("/")[2])


def _mark_complete(opened: Opened, done: list[str]) -> int:
    """Take back marks of images that are not there; return how many are complete."""
    complete = store.completed(opened.path, len(opened.complete))
    marks = opened.coordinates.get(schema.COMPLETE.name, complete)
    n_completed, counted = int(complete.sum()), opened.attributes.get("n_completed")
    wrong = isinstance(counted, int) and counted > n_completed
    rebuilt = not opened.root.indexed and (opened.path / copies.FOLDER).exists()
    if (marks & ~complete).any() or wrong or (rebuilt and counted != n_completed):
        store.finish(opened.path)
        done.append(f"marked {n_completed} images as complete")
    return n_completed


def _error(root: Root, addition: Addition, unmended: set[str]) -> str | None:
    """What is wrong with an addition."""
    if addition.attribute not in root.attributes:
        return None
    if not root.indexed:
        found = identities.statistics_errors(root) if addition is schema.COLLECTION else []
        return next(iter(found), None)
    lost = sorted(file for file in unmended if file.partition("/")[0] in addition.names)
    return f"{lost[0]} is not what was written" if lost else None


def _set_aside(root: Root, addition: Addition, error: str) -> list[str]:
    """Move an addition aside; return what was done.

    Sensitivities stay when statistics go: they were measured with the model, their rows are its
    layers, and they get their names back when statistics are collected again.
    """
    path, done = root.path, [f"moved the {addition.title} to {_ASIDE}: {error}"]
    for name in addition.names:
        set_aside.move(path, path / name)
    _unlist(root, addition)
    return done


def _unlist(root: Root, addition: Addition) -> None:
    """Let readers see an addition no more."""
    if root.indexed:
        with commit.change(root.path) as change:
            change.remove(addition)
        return
    content = copies.parsed(root.content)
    content["attributes"].pop(addition.attribute, None)
    for name in addition.names:
        content["consolidated_metadata"]["metadata"].pop(name, None)
    durable.write(root.path / FILE, copies.as_bytes(content))

"""How covered files come back: byte for byte from copies, or as values that something tells."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from calibzarr.errors import Call, Message, Option, StoreError
from calibzarr.integrity import files, remedies, set_aside, trajectory_checks
from calibzarr.models import registry
from calibzarr.prompts import lists as prompt_lists
from calibzarr.storage import commit, copies, durable, schema, store
from calibzarr.storage.manifest import FILE, Root, prompts_sha256
from calibzarr.storage.variable import Addition

ASIDE = set_aside.directory(Path())  # as users know it, within the store


@dataclass
class Restored:
    """What was done, what only the user can mend, and what to run next."""

    actions: list[str] = field(default_factory=list)
    needed: list[str | Message] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)


def restore(root: Root, prompts: Path | None) -> Restored:
    """Put covered files in order, and move away what a command makes again.

    Args:
        root: of a store whose lock is held, and which has all folders of a build.
        prompts: the file that it was built from, if the user gave one.

    Raises:
        StoreError: if ``prompts`` is not that file.
    """
    done, listed = Restored(), _listed(root, prompts)
    index = _index(root, done.actions)
    judged = root
    if index is None:  # what contradicts the rest is wrong
        judged = replace(root, attributes={**root.attributes})
        judged.attributes.pop(copies.ATTRIBUTE, None)
    wrong = _restore_files(judged, index, done.actions)
    reasons = {file.partition("/")[0]: why for file, why in sorted(wrong.items(), reverse=True)}
    values = {name: _values(root, name, listed) for name in reasons if copies.is_copied(f"{name}/")}
    done.needed = [_need(root, name) for name, found in values.items() if found is None]
    additions = [
        addition
        for addition in schema.ADDITIONS
        if reasons.keys() & {addition.attribute, *addition.names}
    ]
    mended = {*values, copies.FOLDER, *(name for one in additions for name in one.names)}
    mended |= {addition.attribute for addition in additions}
    done.needed += [why for name, why in reasons.items() if name not in mended]
    if not done.needed and (additions or values or (root.indexed and index is None)):
        for addition in additions:
            _set_aside(root, addition, reasons, done)
        _commit(root, index, additions, {n: v for n, v in values.items() if v is not None}, done)
    return done


def _index(root: Root, actions: list[str]) -> dict[str, str] | None:
    """The index of a store; None where it has none, or has lost it and files do not tell it."""
    if not root.indexed:
        return None
    name = root.attributes[copies.ATTRIBUTE]["index"]
    with suppress(StoreError):
        return copies.read_index(root.path, name)
    index = copies.index_of_files(root.path, root.arrays.keys() & schema.NAMES)
    content = copies.index_content(index)
    if copies.sha256(content) != name:
        return None
    set_aside.replace(root.path, root.path / f"{copies.INDEX}{name}", content)
    actions.append("restored the index of files")
    return index


def _restore_files(
    root: Root, index: Mapping[str, str] | None, actions: list[str]
) -> dict[str, str]:
    """Put back what copies tell, and move away what is not calibzarr's; return what stays wrong."""
    wrong = files.differences(root)
    is_metadata = {f"{name}/{FILE}" for name in root.arrays.keys() & schema.NAMES}
    known = is_metadata if index is None else index.keys()
    surplus = [file for file in wrong if "/" in file and file not in known]
    for file in surplus:
        set_aside.move(root.path, root.path / file)
    if surplus:
        actions.append(f"moved to {ASIDE}: {', '.join(surplus)}")
    copied, restored = copies.read_coordinates(root.path), []
    remaining = [file for file in wrong if file not in surplus]
    for file in sorted(remaining, key=lambda file: file == copies.COORDINATES):
        content = _content(root, file, index, copied)
        if content is not None and (index is None or copies.sha256(content) == index[file]):
            set_aside.replace(root.path, root.path / file, content)
            restored.append(file)
    if restored:
        actions.append(f"restored {', '.join(restored)}")
    if index is None and restored:
        return _restore_files(root, index, actions)  # values can be judged now
    return {file: wrong[file] for file in remaining if file not in restored}


def _content(
    root: Root, file: str, index: Mapping[str, str] | None, copied: Mapping[str, bytes]
) -> bytes | None:
    """What a file was, as something else tells; None where nothing does."""
    name, _, key = file.partition("/")
    if file == copies.GROUP:
        return copies.GROUP_CONTENT
    if key == FILE and name in root.arrays:
        return copies.as_bytes(root.arrays[name])
    if file == copies.COORDINATES:
        with suppress(OSError):
            chunks = filter(copies.is_copied, index or ())
            return copies.coordinates_content({f: durable.read(root.path / f) for f in chunks})
    return copied.get(file) if index is not None else None


def _commit(
    root: Root,
    index: dict[str, str] | None,
    additions: list[Addition],
    values: Mapping[str, np.ndarray],
    done: Restored,
) -> None:
    """Publish what is not byte for byte what it was; a store gets an index by that."""
    for name in values:
        for file in sorted((root.path / name).iterdir()):
            if file.name not in (FILE, "backup"):
                set_aside.move(root.path, file)
    if index is None:
        index = copies.index_of_files(root.path, root.arrays.keys() & schema.NAMES)
        done.actions.append("made an index of files, for nothing else contradicts itself")
    with commit.changing(root, index) as made:
        for addition in additions:
            made.remove(addition)
        for name, array in values.items():
            store.array(made.group(), name)[:] = array
            if name == schema.COMPLETE.name:
                made.attributes["n_completed"] = int(array.sum())
    if values:
        done.actions.append(f"restored {', '.join(sorted(values))}")


def _set_aside(root: Root, addition: Addition, reasons: Mapping[str, str], done: Restored) -> None:
    """Move an addition aside, whose commands make it again.

    Sensitivities stay when statistics go: they were measured with the model, their rows are its
    layers, and they get their names back when statistics are collected again.
    """
    why = next(reasons[name] for name in (addition.attribute, *addition.names) if name in reasons)
    for name in addition.names:
        set_aside.move(root.path, root.path / name)
    done.actions.append(f"moved the {addition.title} to {ASIDE}: {why}")
    done.calls.append(remedies.of_addition(root, addition))


def _listed(root: Root, file: Path | None) -> dict[str, np.ndarray]:
    """Prompts and seeds as a build takes them from the user's file, or the model's own list.

    Raises:
        StoreError: if the user's file is not the one that the store was built from.
    """
    attributes = root.attributes
    if file is not None:
        available = prompt_lists.read_prompts(file)
    else:
        entry = registry.find_if_known(attributes.get("model"))
        if entry is None or entry.prompts is None:
            return {}
        available = entry.prompts()
    first = attributes.get("seed") or 0  # an imported store may not know it
    texts, seeds = prompt_lists.assign(available, root.num_images, first, repeat=True)
    if prompts_sha256(texts) == attributes["prompts_sha256"]:
        prompts = np.array(texts, dtype=object)
        return {schema.PROMPT.name: prompts, schema.SEED.name: np.array(seeds, dtype=np.int64)}
    if file is None:
        return {}
    raise StoreError(
        f"{file} is not what {root.path} was built from: its prompts have another SHA-256"
    )


def _values(root: Root, name: str, listed: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """What a coordinate must be: by the copy of 0.1, or else by what decides it."""
    old = copies.read_old(root.path, "coordinates.json")
    num_states = int(root.arrays[schema.SIGMA.name]["shape"][0])
    if name == schema.COMPLETE.name:
        return store.completed(root.path, root.num_images)
    if name == schema.FINAL.name:
        return np.asarray(np.arange(num_states) == num_states - 1)
    if name in old:
        return np.asarray(old[name], object if name == schema.PROMPT.name else None)
    if name in listed or name not in (schema.SIGMA.name, schema.TIMESTEP.name):
        return listed.get(name)
    imported = schema.IMPORTED in root.attributes and name == schema.TIMESTEP.name  # as files said
    if imported or registry.find_if_known(root.attributes.get("model")) is None:
        return None
    with suppress(OSError):  # its weights are not here
        schedule = registry.load(root.attributes["model"]).schedule(num_states - 1)
        formulas = registry.schedules_of(root.attributes)
        if not trajectory_checks.schedule_errors(schedule.sigma, schedule.timestep, formulas):
            return schedule.sigma if name == schema.SIGMA.name else schedule.timestep
    return None


def _need(root: Root, name: str) -> str | Message:
    """What only the user can mend."""
    if name in (schema.PROMPT.name, schema.SEED.name):
        give = Message(f"give the file that {root.path} was built from, by ", Option("prompts"))
        return Message(f"every {name} is damaged: ", give)
    if name == schema.QUANTIZATION_CONFIG.name:
        return f"{name} is damaged, and has no copy: build the run anew"
    return f"{name} is damaged, and the model that would tell is not known, or not here"

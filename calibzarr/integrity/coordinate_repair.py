"""Putting what is small, and cannot be computed again, back from copies, files or formulas."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calibzarr.errors import Message, Option, StoreError
from calibzarr.integrity import set_aside, trajectory_checks
from calibzarr.integrity.opened import Opened, codec_errors_named, read_states
from calibzarr.models import registry
from calibzarr.prompts import lists as prompt_lists
from calibzarr.prompts.lists import MAX_SEED
from calibzarr.storage import commit, copies, schema, store
from calibzarr.storage.manifest import FILE, Root, prompts_sha256


def right_coordinates(
    opened: Opened, file: Path | None
) -> tuple[dict[str, np.ndarray], list[str | Message]]:
    """What prompts, seeds and schedule must be, where files and their copies do not tell.

    Args:
        opened: the store.
        file: the prompt file that it was built from, if the user gave one.

    Returns:
        Values by name, of those that are not so; and what only the user can mend, in words.

    Raises:
        StoreError: if ``file`` is not the one that the store was built from.
    """
    old = _old_copies(opened)
    given = _from_file(opened, file) if file is not None else {}
    right: dict[str, np.ndarray] = {}
    needed: list[str | Message] = []
    for name, values in (
        (schema.PROMPT.name, _right_prompts(opened, old, given)),
        (schema.SEED.name, _right_seeds(opened, old, given)),
    ):
        if values is None:
            needed.append(Message(f"every {name} is damaged: ", _give_file(opened.path)))
        else:
            right[name] = values
    right.update(_right_schedule(opened, old))
    if schema.SIGMA.name not in right:
        needed.append("sigma or timestep is damaged, and the model that would tell is not known")
    right[schema.COMPLETE.name] = opened.complete
    known = opened.coordinates
    wrong = {name for name, values in right.items() if not _equal(known.get(name), values)}
    if schema.COMPLETE.name in known:
        wrong.discard(schema.COMPLETE.name)  # it is as a build left it
    return {name: right[name] for name in wrong}, needed


def replace_coordinates(root: Root, values: Mapping[str, np.ndarray]) -> list[str]:
    """Write coordinates whole, whatever stands there now; return what was done, in words."""
    if not values:
        return []
    for name in values:
        for file in sorted((root.path / name).iterdir()):
            if file.name != FILE and file.name != "backup":
                set_aside.move(root.path, file)
    if root.indexed:
        with commit.change(root.path) as change:
            for name, array in values.items():
                store.array(change.group(), name)[:] = array
    else:
        for name, array in values.items():
            store.array(store.open_group(root), name)[:] = array
    return [f"restored {', '.join(sorted(values))}"]


def _old_copies(opened: Opened) -> dict[str, np.ndarray]:
    """The copies that a store of 0.1 has, by name."""
    dtypes = {variable.name: variable.dtype for variable in schema.BUILD_VARIABLES}
    return {
        name: np.asarray(values, dtype=object if dtypes[name] == "string" else dtypes[name])
        for name, values in copies.read_old(opened.path, "coordinates.json").items()
    }


def _equal(stored: np.ndarray | None, right: np.ndarray) -> bool:
    return stored is not None and np.array_equal(stored[: len(right)], right)


def _give_file(path: Path) -> Message:
    return Message(f"give the file that {path} was built from, by ", Option("prompts"))


def _from_file(opened: Opened, file: Path) -> dict[str, np.ndarray]:
    """Prompts and seeds as a build would take them from the user's file."""
    available, attributes = prompt_lists.read_prompts(file), opened.attributes
    num_images = len(opened.complete)
    first = attributes["seed"] or 0  # an imported store may not know it
    texts, seeds = prompt_lists.assign(available, num_images, first, repeat=True)
    if prompts_sha256(texts) != attributes["prompts_sha256"]:
        raise StoreError(
            f"{file} is not what {opened.path} was built from: its prompts have another SHA-256"
        )
    return {
        schema.PROMPT.name: np.array(texts, dtype=object),
        schema.SEED.name: np.array(seeds, dtype=np.int64),
    }


def _right_prompts(
    opened: Opened, copies: dict[str, np.ndarray], given: dict[str, np.ndarray]
) -> np.ndarray | None:
    """Prompts with the SHA-256 of the manifest, or None."""
    name, num_images = schema.PROMPT.name, len(opened.complete)
    for source in (opened.coordinates, copies, given):
        if name in source:
            texts = [str(text) for text in source[name][:num_images]]
            if prompts_sha256(texts) == opened.attributes["prompts_sha256"]:
                return np.array(texts, dtype=object)
    return None


def _right_seeds(
    opened: Opened, copies: dict[str, np.ndarray], given: dict[str, np.ndarray]
) -> np.ndarray | None:
    """Seeds by their copy, or the user's file, or else as the noise of the images tells."""
    name, num_images = schema.SEED.name, len(opened.complete)
    for source in (copies, given):
        if len(source.get(name, ())) >= num_images:
            return source[name][:num_images]
    first: Any = opened.attributes["seed"]
    derived = np.arange(num_images) + (first if isinstance(first, int) else -num_images)
    stored = opened.coordinates.get(name, derived)
    seeds = np.where(_fitting(opened, stored), stored, derived)
    seeds = np.where((seeds < 0) | _fitting(opened, seeds), seeds, stored)
    if name not in opened.coordinates and not _fitting(opened, seeds).all():
        return None  # they were not counted from the first one: a file gave them
    return seeds if (seeds >= 0).all() else None


def _fitting(opened: Opened, seeds: np.ndarray) -> np.ndarray:
    """Whether each seed is one, and that of its image's noise where there is an image."""
    sigma = opened.coordinates.get(schema.SIGMA.name)
    noise = registry.noise_of(opened.attributes)
    fits = (seeds >= 0) & (seeds <= MAX_SEED)
    for image in np.flatnonzero(opened.complete & fits):
        try:
            with codec_errors_named():
                state = read_states(opened, int(image))[0]
        except StoreError:
            continue
        if sigma is not None and noise is not None:
            fits[image] = trajectory_checks.is_noise_of(
                state, noise, int(seeds[image]), float(sigma[0])
            )
    return fits


def _right_schedule(opened: Opened, copies: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Noise levels by their copy, or as they are, or else by the model if that is known."""
    num_states = opened.arrays[schema.SIGMA.name].shape[0]
    names = (schema.SIGMA.name, schema.TIMESTEP.name)
    final = {schema.FINAL.name: np.arange(num_states) == num_states - 1}
    formulas = registry.schedules_of(opened.attributes)
    for source in (copies, opened.coordinates):
        if all(len(source.get(name, ())) == num_states for name in names):
            sigma, timestep = (source[name] for name in names)
            told = None if schema.IMPORTED in opened.attributes else timestep
            if not trajectory_checks.schedule_errors(sigma, told, formulas):
                return {names[0]: sigma, names[1]: timestep, **final}
    if registry.find_if_known(opened.attributes["model"]) is None:
        return final
    schedule = registry.load(opened.attributes["model"]).schedule(num_states - 1)
    return {names[0]: schedule.sigma, names[1]: schedule.timestep, **final}

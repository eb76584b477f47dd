"""Putting what is small, and cannot be computed again, back from copies, files or formulas."""

from pathlib import Path
from typing import Any

import numpy as np

from calibzarr.errors import Message, Option, StoreError
from calibzarr.integrity import set_aside, trajectory_checks
from calibzarr.integrity.opened import Opened, codec_errors_named, read_states
from calibzarr.models import registry
from calibzarr.prompts import lists as prompt_lists
from calibzarr.prompts.lists import MAX_SEED
from calibzarr.storage import backup, schema, store
from calibzarr.storage.manifest import prompts_sha256
from calibzarr.storage.variable import Variable


def repair_coordinates(opened: Opened, file: Path | None) -> tuple[list[str], list[str | Message]]:
    """Put prompts, seeds and the schedule in order, and keep copies of them.

    Args:
        opened: the store.
        file: the prompt file that it was built from, if the user gave one.

    Returns:
        What was done, and what only the user can mend, in words.

    Raises:
        StoreError: if ``file`` is not the one that the store was built from.
    """
    copies = backup.read_coordinates(opened.path)
    given = _from_file(opened, file) if file is not None else {}
    right: dict[str, np.ndarray] = {}
    needed: list[str | Message] = []
    texts = _right_prompts(opened, copies, given)
    if texts is None:
        needed.append(Message("the prompts are damaged: ", _give_file(opened.path)))
    else:
        right[schema.PROMPT.name] = texts
    seeds = _right_seeds(opened, copies, given)
    if seeds is None:
        needed.append(Message("the seeds are damaged: ", _give_file(opened.path)))
    else:
        right[schema.SEED.name] = seeds
    right.update(_right_schedule(opened, copies))
    if schema.SIGMA.name not in right:
        needed.append("sigma or timestep is damaged, and the model that would tell is not known")
    done = []
    for variable in schema.BUILD_VARIABLES:
        name = variable.name
        if name in right and not _equal(opened.coordinates.get(name), right[name]):
            replace_coordinate(opened.path, variable, right[name])
            done.append(f"restored {name}")
    right.pop(schema.FINAL.name)
    if not all(_equal(copies.get(name), values) for name, values in right.items()):
        backup.write_coordinates(opened.path, right)
        done.append(f"kept a copy of {', '.join(right)}")
    return done, needed


def replace_coordinate(path: Path, variable: Variable, values: np.ndarray) -> None:
    """Write a coordinate whole, whatever stands there now.

    Args:
        path: directory of the store.
        variable: of the schema.
        values: shape of the variable.
    """
    for file in sorted((path / variable.name).iterdir()):
        if variable.index(file.name) is not None:
            set_aside.move(path, file)
    store.array(store.open_group(path), variable.name)[:] = values


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

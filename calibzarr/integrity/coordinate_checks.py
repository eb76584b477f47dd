"""Whether the coordinates of a store fit its manifest and their copies."""

from collections.abc import Iterator

import numpy as np

from calibzarr.errors import StoreError
from calibzarr.integrity import trajectory_checks
from calibzarr.integrity.findings import Tally
from calibzarr.integrity.opened import Opened, codec_errors_named
from calibzarr.models import registry
from calibzarr.prompts.lists import MAX_SEED
from calibzarr.sampling import runs
from calibzarr.storage import backup, schema
from calibzarr.storage.manifest import prompts_sha256


def check_coordinates(opened: Opened) -> Tally:
    """Check everything that is small: the coordinates, against the manifest and their copies."""
    tally = Tally()
    for image, message in _errors_by_image(opened):
        tally.record("coordinates", [message], image)
    errors = _errors(opened)
    if errors or not tally.findings:
        tally.record("coordinates", errors)
    _check_schedule(opened, tally)
    return tally


def _errors_by_image(opened: Opened) -> Iterator[tuple[int, str]]:
    """Images with what is wrong with their prompt, seed or mark, in words."""
    known, copies = opened.coordinates, backup.read_coordinates(opened.path)
    for variable in (schema.PROMPT, schema.SEED):
        stored, copy = known.get(variable.name), copies.get(variable.name)
        if stored is None or copy is None:
            continue
        common = min(len(stored), len(copy))
        for image in np.flatnonzero(stored[:common] != copy[:common]):
            yield (
                int(image),
                f"its {variable.name} is {stored[image]!s}, but {copy[image]!s} in the copy",
            )
    seeds = known.get(schema.SEED.name, np.zeros(0, dtype=np.int64))
    for image in np.flatnonzero((seeds < 0) | (seeds > MAX_SEED)):
        yield int(image), f"its seed is {seeds[image]}, which is none"
    marked = known.get(schema.COMPLETE.name, np.zeros(0, dtype=bool))
    for image in np.flatnonzero(marked & ~opened.complete[: len(marked)]):
        yield int(image), "it is marked as complete, but its states are not there"


def _errors(opened: Opened) -> list[str]:
    """What is wrong with the coordinates, and a run's configuration, as a whole, in words."""
    errors = [f"{name} cannot be read: {why}" for name, why in opened.unreadable.items()]
    try:
        with codec_errors_named():
            runs.stored(opened.root)
    except StoreError as error:
        errors.append(f"{schema.QUANTIZATION_CONFIG.name}: {error}")
    texts = [str(text) for text in opened.coordinates.get(schema.PROMPT.name, ())]
    if texts and prompts_sha256(texts) != opened.attributes["prompts_sha256"]:
        errors.append("the prompts do not have the SHA-256 of the manifest")
    counted, complete = opened.attributes.get("n_completed"), opened.complete.sum()
    if isinstance(counted, int) and counted > complete:
        errors.append(f"n_completed is {counted}, but {complete} images are complete")
    return errors


def _check_schedule(opened: Opened, tally: Tally) -> None:
    known = opened.coordinates
    names = (schema.SIGMA.name, schema.TIMESTEP.name, schema.FINAL.name)
    if not all(name in known for name in names):
        return
    sigma, timestep, final = (known[name] for name in names)
    told = None if schema.IMPORTED in opened.attributes else timestep
    errors = trajectory_checks.schedule_errors(
        sigma, told, registry.schedules_of(opened.attributes)
    )
    if not np.array_equal(final, np.arange(len(final)) == len(final) - 1):
        errors.append("final is not true for the last state alone")
    copies = backup.read_coordinates(opened.path)
    for name in names:
        if name in copies and not np.array_equal(copies[name], known[name]):
            errors.append(f"{name} differs from its copy")
    tally.record("schedule", errors)

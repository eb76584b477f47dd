"""Whether a store is whole and true: every file, every image, and some images by the model."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from calibzarr.errors import Option, OptionError, StoreError, at_least
from calibzarr.integrity import files, regeneration, trajectory_checks
from calibzarr.integrity.findings import CHECKS, Report, Tally
from calibzarr.integrity.image_checks import check_images
from calibzarr.integrity.opened import Opened, codec_errors_named, open_for_checks
from calibzarr.models import registry
from calibzarr.progress import progress_console
from calibzarr.sampling import runs
from calibzarr.storage import commit, durable, schema
from calibzarr.storage.manifest import FILE, NewerFormat, Root, looks_like_a_store, read_root

_NO_INDEX = "it has no index of its files; the next command that writes to it makes one"
_PENDING = "a change was interrupted: old and new files are both right, and the next command that "
_TURNS = 3  # with a store that others change


def verify(
    path: str | Path,
    *,
    model: bool = False,
    sample: int = 4,
    seed: int = 0,
    tolerance: float = 2e-5,
    progress: bool | None = None,
) -> Report:
    """Check a store's files and images; and some images with its model.

    Args:
        path: directory of the store.
        model: whether to make some images again with the model, and compare.
        sample: how many of them, chosen at random.
        seed: of that choice.
        tolerance: greatest difference of their states, in latent units, that is let pass.
        progress: whether to tell of it; if None, only on a terminal or in a notebook.

    Returns:
        What was found. Images that are not complete are listed, and are no failure.

    Raises:
        FileNotFoundError: if nothing is at ``path``, or the model's weights are not here.
        ValueError: if it is no calibzarr store, or of a format that this version cannot read.
        OptionError: if a value is not allowed, or the model is not known.
    """
    path, console = Path(path), progress_console(progress)
    at_least("sample", sample, 1)
    if not 0 <= tolerance < float("inf"):
        raise OptionError(Option("tolerance"), f" must be 0 or more, got {tolerance}")

    check_model = None
    if model:
        check_model = partial(
            regeneration.check, sample=sample, seed=seed, tolerance=tolerance, console=console
        )
    for _ in range(_TURNS):
        before = _root_file(path)
        report = _verify(path, console, check_model)
        if report.ok or _root_file(path) == before:
            break
    return report


def _root_file(path: Path) -> bytes | None:
    try:
        return durable.read(path / FILE)
    except OSError:
        return None


def _verify(
    path: Path, console: Console, check_model: Callable[[Opened, np.ndarray], Tally] | None
) -> Report:
    tally = Tally()
    try:
        root = read_root(path)
    except NewerFormat:
        raise
    except StoreError as error:
        if not looks_like_a_store(path):
            raise
        tally.record("manifest", [_without_remedy(error)])
        return _report(path, np.zeros(0, dtype=bool), tally, [])
    tally.record("manifest", files.copy_errors(root))
    try:
        tally.record("files", list(files.differences(root).values()))
    except StoreError as error:  # the index itself is damaged
        tally.record("files", [_without_remedy(error)])
    opened = open_for_checks(root)
    _check_coordinates(opened, tally)
    tally.add(check_images(opened, console))
    _check_coverage(opened, tally)
    if check_model is not None:
        doubtful = [finding.image for finding in tally.findings if finding.image is not None]
        tally.add(check_model(opened, np.setdiff1d(np.flatnonzero(opened.complete), doubtful)))
    return _report(path, opened.complete, tally, _notes(root))


def _without_remedy(error: StoreError) -> str:
    parts = [part for part in error.message.parts if isinstance(part, str)]
    return "".join(parts).removesuffix(". Mend it with: ")


def _notes(root: Root) -> list[str]:
    notes = [] if root.indexed else [_NO_INDEX]
    if (root.path / commit.NEXT).exists():
        notes.append(f"{_PENDING}writes goes on with it")
    own = files.users_own(root)
    return notes + ([f"not checked, for they are your own: {', '.join(own)}"] if own else [])


def _check_coordinates(opened: Opened, tally: Tally) -> None:
    """Check what the coordinates say of images, and of the schedule."""
    marks = opened.coordinates.get(schema.COMPLETE.name, np.zeros(0, dtype=bool))
    lost = np.flatnonzero(marks & ~opened.complete[: len(marks)]).tolist()
    for image in lost:
        message = "it is marked as complete, but its states are not there"
        tally.record("coordinates", [message], image)
    errors = [f"{name} cannot be read: {why}" for name, why in opened.unreadable.items()]
    try:
        with codec_errors_named():
            runs.stored(opened.root)
    except StoreError as error:
        errors.append(f"{schema.QUANTIZATION_CONFIG.name}: {error}")
    counted, complete = opened.attributes.get("n_completed"), opened.complete.sum()
    if isinstance(counted, int) and counted > complete:
        errors.append(f"n_completed is {counted}, but {complete} images are complete")
    if errors or not lost:
        tally.record("coordinates", errors)
    sigma, timestep = map(opened.coordinates.get, (schema.SIGMA.name, schema.TIMESTEP.name))
    if sigma is not None and timestep is not None:
        told = None if schema.IMPORTED in opened.attributes else timestep
        formulas = registry.schedules_of(opened.attributes)
        tally.record("schedule", trajectory_checks.schedule_errors(sigma, told, formulas))


def _check_coverage(opened: Opened, tally: Tally) -> None:
    """Check that statistics and sensitivities are of images that are complete."""
    incomplete = np.flatnonzero(~opened.complete)
    for check, attribute, name in (
        ("statistics", schema.ACTIVATIONS, schema.COLLECTED_IMAGE.name),
        ("sensitivities", schema.SENSITIVITY, "sensitivity_image"),
    ):
        if attribute not in opened.attributes or name not in opened.root.arrays:
            continue
        try:
            values = opened.read(name)
        except StoreError as error:
            tally.record(check, [f"{name} cannot be read: {error}"])
            continue
        images = np.flatnonzero(values) if values.dtype == bool else values
        lost = np.intersect1d(images, incomplete).tolist()
        for image in lost:
            tally.record(check, ["they cover it, but it is not complete"], image)
        if not lost:
            tally.record(check, [])


def _report(path: Path, complete: np.ndarray, tally: Tally, notes: list[str]) -> Report:
    order = list(CHECKS)
    found = sorted(tally.findings, key=lambda one: (order.index(one.check), one.image or 0))
    incomplete = tuple(np.flatnonzero(~complete).tolist())
    passed = dict(tally.passed)
    return Report(path, len(complete), incomplete, passed, tuple(found), tuple(notes))

"""From a directory of a file for each state to a store; see :mod:`calibzarr.export.legacy`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from calibzarr import parallel
from calibzarr.errors import OptionError, disk_full_named
from calibzarr.legacy import directory as legacy_directory
from calibzarr.legacy.import_plan import ImportPlan
from calibzarr.legacy.npz import Unreadable
from calibzarr.legacy.trajectories import Reference, read_states
from calibzarr.long_run import graceful_stop
from calibzarr.progress import reporting
from calibzarr.storage import collected, schema, store


@dataclass(frozen=True)
class ImportResult:
    """How an import ended.

    Attributes:
        path: directory of the store.
        num_images: images of the whole store.
        n_completed: images complete in it.
        imported: images that became complete in this run.
        left_out: images that are not complete, each with what is wrong.
        without_picture: images that are complete but for their picture, which is all zero, each
            with what is wrong; only those of this run.
        interrupted: whether the user stopped it.
    """

    path: Path
    num_images: int
    n_completed: int
    imported: int
    left_out: Mapping[int, str]
    without_picture: Mapping[int, str]
    interrupted: bool


@dataclass(frozen=True)
class _Work:
    """What a worker must know to import an image."""

    path: Path
    directory: Path
    folder: Path | None
    reference: Reference
    image_size: int


@dataclass(frozen=True)
class _Done:
    """What became of an image: why it is left out, or why it has no picture."""

    image: int
    problem: str | None = None
    picture_problem: str | None = None


def run(plan: ImportPlan, console: Console) -> ImportResult:
    """Import what was planned, image by image.

    Raises:
        OptionError: if the store that is there by now is not of this directory.
        OSError: if the store cannot be written; images that are complete stay.
    """

    def what_is_left() -> str:
        return "the images that are complete stay; make room, then give the same command again"

    with disk_full_named(what_is_left):
        _prepare_store(plan)
        missing = plan.missing()
        left_out = dict(plan.left_out)
        without_picture: dict[int, str] = {}
        imported, interrupted = 0, False
        if missing:
            for done in _results(plan, missing, console):
                if done is None:
                    interrupted = True
                elif done.problem is not None:
                    left_out[done.image] = done.problem
                else:
                    imported += 1
                    if done.picture_problem is not None:
                        without_picture[done.image] = done.picture_problem
        store.remove_leftovers(plan.path)
        if not interrupted:
            store.finish(plan.path)
    complete = store.completed(plan.path, plan.num_images)
    return ImportResult(
        path=plan.path,
        num_images=plan.num_images,
        n_completed=int(complete.sum()),
        imported=imported,
        left_out={image: left_out[image] for image in sorted(left_out) if not complete[image]},
        without_picture=without_picture,
        interrupted=interrupted,
    )


def _prepare_store(plan: ImportPlan) -> None:
    """Create the store, or let the one that is there grow and learn what is known by now."""
    if not plan.exists:
        coordinates = {
            schema.SIGMA.name: plan.reference.sigma,
            schema.TIMESTEP.name: plan.reference.timestep,
            schema.FINAL.name: np.arange(len(plan.reference.sigma))
            == len(plan.reference.sigma) - 1,
            schema.PROMPT.name: np.asarray(plan.prompts, dtype=object),
            schema.SEED.name: np.asarray(plan.seeds, dtype=np.int64),
        }
        try:
            store.create(plan.path, plan.sizes, coordinates, plan.attributes)
        except FileExistsError:
            raise OptionError(
                f"{plan.path} was created meanwhile; give the same command again"
            ) from None
        return
    stored = store.manifest(plan.path)
    if plan.num_images > len(store.stored_prompts(plan.path)[0]):
        changing = ("num_images", "prompts_sha256", "prompt_source")
        collected.install(plan.path)
        new = {name: plan.attributes[name] for name in changing}
        store.extend(plan.path, plan.prompts, plan.seeds, new)
    learned = {
        name: value
        for name, value in plan.attributes.items()
        if value is not None and stored.get(name) is None
    }
    if learned:
        store.update_attributes(plan.path, learned)


def _results(plan: ImportPlan, missing: list[int], console: Console) -> Any:
    """What became of each image, as it is known; None last, if the user stopped it."""
    work = _Work(
        path=plan.path,
        directory=plan.directory,
        folder=plan.manifest_folder,
        reference=plan.reference,
        image_size=plan.sizes.image_size,
    )
    tasks = ((image, plan.filename(image)) for image in missing)
    workers = min(plan.workers, len(missing))
    count = 0

    def tell() -> None:
        console.print("stopping when the images in work are complete; Ctrl-C again to stop now")

    with (
        reporting(console, "import", "image", len(missing)) as report,
        graceful_stop(tell) as stop_requested,
    ):
        try:
            for done in parallel.results(
                partial(_import_image, work), tasks, workers, stop_requested, threads=True
            ):
                count += 1
                report.advance(1)
                yield done
        except KeyboardInterrupt:
            count = -1
    if count < len(missing):
        yield None


def _import_image(work: _Work, task: tuple[int, str | None]) -> _Done:
    """Read all of an image's files, and write it if its states are whole."""
    image, filename = task
    try:
        states = read_states(work.directory, image, work.reference)
    except Unreadable as error:
        return _Done(image, problem=str(error))
    shape = (work.image_size, work.image_size, 3)
    picture, problem = np.zeros(shape, dtype=np.uint8), None
    path = legacy_directory.picture_path(work.directory, work.folder, image, filename)
    try:
        picture = legacy_directory.read_picture(path, work.image_size)
    except Unreadable as error:
        problem = f"{path.name} {error}"
    store.ImageWriter(work.path).write(image, states, picture)
    return _Done(image, picture_problem=problem)

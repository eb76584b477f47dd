"""From a directory of a file for each state to a store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from calibzarr import parallel
from calibzarr.errors import OptionError, disk_full_named
from calibzarr.legacy import import_plan
from calibzarr.legacy.bounded import Unreadable
from calibzarr.legacy.choices import Layout
from calibzarr.legacy.import_plan import ImportPlan
from calibzarr.legacy.old_directory import read_picture
from calibzarr.legacy.trajectories import read_states
from calibzarr.long_run import long_run
from calibzarr.progress import progress_console
from calibzarr.storage import commit, store
from calibzarr.storage.manifest import read_root


@dataclass(frozen=True)
class ImportResult:
    """How an import ended.

    Attributes:
        path: directory of the store.
        num_images: images of the whole store.
        n_completed: images complete in it.
        imported: images that became complete in this run.
        left_out: images that are not complete, and what is wrong with each.
        without_picture: images that are complete but for their picture, which is all zero, and
            what is wrong with each; only those of this run.
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
class _Outcome:
    """What became of an image: why it is left out, or why it has no picture."""

    image: int
    problem: str | None = None
    picture_problem: str | None = None


def import_legacy(
    directory: str | Path,
    path: str | Path,
    *,
    prompts: str | Path | None = None,
    model: str | None = None,
    cfg_weight: float | None = None,
    seed: int | None = None,
    layout: Layout | None = None,
    workers: int | None = None,
    progress: bool | None = None,
) -> ImportResult:
    """Read a directory of a compressed NumPy file for each state into a store.

    What is given counts where the directory's manifest says nothing. What neither says is None
    in the store's manifest: not known.

    Args:
        directory: in the old layout.
        path: directory of the store; nothing, or an earlier import of the same directory.
        prompts: a CSV or text file; prompt i is that of image i.
        model: a name that the registry knows.
        cfg_weight: weight of classifier-free guidance.
        seed: seed of image 0; image i has ``seed + i``.
        layout: of x, ``nchw`` or ``nhwc``; default: as its shape tells.
        workers: threads; default: as many as there are processors.
        progress: whether to tell of it; if None, only on a terminal or in a notebook.

    Returns:
        How it ended. A first Ctrl-C ends it after the images in work.

    Raises:
        OptionError: if a value is not allowed, or the store at ``path`` is another.
        ValueError: if the directory has no whole image, a complete one has no prompt, or its
            manifest names files outside of it.
        OSError: if something cannot be read or written, or the disk is clearly too small; images
            that are complete stay.
    """
    plan = import_plan.plan(
        directory,
        path,
        prompts=prompts,
        model=model,
        cfg_weight=cfg_weight,
        seed=seed,
        layout=layout,
        workers=workers,
    )
    console = progress_console(progress)
    for note in plan.notes:
        console.print(f"note: {note}")
    return run(plan, console)


def run(plan: ImportPlan, console: Console) -> ImportResult:
    """Import what was planned, image by image.

    Raises:
        OptionError: if the store that is there by now is not of this directory.
        OSError: if the store cannot be written; images that are complete stay.
    """

    def what_is_left() -> str:
        return "the images that are complete stay; make room, then give the same command again"

    outcomes: list[_Outcome] = []
    with disk_full_named(what_is_left):
        _prepare_store(plan)
        missing = plan.missing()
        if missing:
            outcomes = _import_images(plan, missing, console)
        store.remove_leftovers(plan.path)
        interrupted = len(outcomes) < len(missing)
        if not interrupted:
            store.finish(plan.path)
    complete = store.completed(plan.path, plan.num_images)
    problems = {done.image: done.problem for done in outcomes if done.problem is not None}
    left_out = {**plan.left_out, **problems}
    return ImportResult(
        path=plan.path,
        num_images=plan.num_images,
        n_completed=int(complete.sum()),
        imported=len(outcomes) - len(problems),
        left_out={
            image: left_out[image]
            for image in sorted(left_out)
            if image >= len(complete) or not complete[image]
        },
        without_picture={
            done.image: done.picture_problem
            for done in outcomes
            if done.picture_problem is not None
        },
        interrupted=interrupted,
    )


def _prepare_store(plan: ImportPlan) -> None:
    """Create the store, or let the one that is there grow and learn what is known by now."""
    if not plan.exists:
        _create_store(plan)
        return
    root = read_root(plan.path)
    if root.num_images < plan.num_images:
        store.extend(plan.path, plan.origin.prompts, plan.origin.seeds, plan.attributes)
    learned = {
        name: value
        for name, value in plan.attributes.items()
        if value is not None and root.attributes.get(name) is None
    }
    if learned:
        commit.update_attributes(plan.path, learned)


def _create_store(plan: ImportPlan) -> None:
    levels, origin = plan.reference, plan.origin
    coordinates = store.coordinates(levels.sigma, levels.timestep, origin.prompts, origin.seeds)
    try:
        store.create(plan.path, plan.sizes, coordinates, plan.attributes)
    except FileExistsError:
        raise OptionError(
            f"{plan.path} was created meanwhile; give the same command again"
        ) from None


def _import_images(plan: ImportPlan, missing: Sequence[int], console: Console) -> list[_Outcome]:
    """What became of each image; fewer than there are, if the user stopped it."""
    workers, writer = min(plan.workers, len(missing)), store.ImageWriter(plan.path)
    outcomes = []
    with long_run(
        console, "import", "image", len(missing), stopping="when the images in work are complete"
    ) as run:
        for outcome in parallel.results(
            partial(_import_image, plan, writer), missing, workers, run.stop_requested, threads=True
        ):
            outcomes.append(outcome)
            run.report.advance(1)
    return outcomes


def _import_image(plan: ImportPlan, writer: store.ImageWriter, image: int) -> _Outcome:
    """Read all of an image's files, and write it if its states are whole."""
    try:
        states = read_states(plan.directory, image, plan.reference)
    except Unreadable as error:
        return _Outcome(image, problem=str(error))
    size = plan.sizes.image_size
    picture, problem = np.zeros((size, size, 3), dtype=np.uint8), None
    path = plan.picture_path(image)
    try:
        picture = read_picture(path, size)
    except Unreadable as error:
        problem = f"{path.name} {error}"
    writer.write(image, states, picture)
    return _Outcome(image, picture_problem=problem)

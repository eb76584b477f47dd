"""Comparing runs with a reference."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console

from calibzarr.collecting.replay import check_model
from calibzarr.collecting.sensitivity_plan import default_steps
from calibzarr.comparison import distance, figures, plan, states, teacher_forced
from calibzarr.comparison.distance import Distance, LatentComponents
from calibzarr.comparison.images import ComparedImages, Features, compare_images
from calibzarr.comparison.pictures import Likeness
from calibzarr.comparison.plan import ComparisonPlan
from calibzarr.comparison.predicted import predicted
from calibzarr.comparison.result import PARTS, Comparison, RunComparison
from calibzarr.comparison.teacher_forced import TeacherForced
from calibzarr.errors import Message
from calibzarr.long_run import long_run
from calibzarr.models import registry
from calibzarr.models.base import Model
from calibzarr.progress import progress_console
from calibzarr.sampling import models, runs
from calibzarr.storage import schema
from calibzarr.storage.manifest import Root, check_known

_UNUSABLE = (ValueError, OSError, TypeError, ImportError)  # why a model cannot be loaded
_Part = TypeVar("_Part")


def compare(
    reference: str | Path,
    runs: str | Path | Sequence[str | Path],
    *,
    features: Features | None = None,
    progress: bool | None = None,
) -> Comparison:
    """Compare runs of the same prompts and seeds with a reference, over their common images.

    Errors of states by step and of the output at the reference's states (teacher-forced), PSNR and
    SSIM of pictures, their Frechet distance, and what sensitivities predicted. Every figure has
    the interval of 95 % confidence of a bootstrap: images are drawn with replacement, 1000 times
    (200 times for the distance), from a fixed seed, each with its picture and states of all
    stores.

    Args:
        reference: directory of the store to compare with.
        runs: directories of the others, or of one; the first is the one that PSNR of the others
            is compared with.
        features: makes features of pictures, shape (image, feature), of uint8 pictures of shape
            (image, row, column, rgb), for the Frechet distance; if None, 24 principal components
            of the reference's final latents are compared.
        progress: whether to tell of it; if None, only on a terminal or in a notebook.

    Returns:
        What was found, which prints as text; ``to_dataset`` gives its figures as arrays.

    Raises:
        OptionError: if no run is named, or ``features`` does not give features.
        StoreError: if a store cannot be used, or differs from the reference in more than its
            model; or no image is complete in all of them.
        OSError: if something cannot be read.
        KeyboardInterrupt: after a first Ctrl-C, when the image in work is compared.
    """
    return run(plan.plan(reference, runs), progress_console(progress), features)


def run(plan: ComparisonPlan, console: Console, features: Features | None = None) -> Comparison:
    """Compare what was planned; see :func:`compare`."""
    total = len(plan.images) * len(plan.runs)
    with _stoppable(console, "compare", "image", total) as advance:
        own, *found = compare_images(plan, features, advance)
    distances = _distances(plan, own, found, console, of_pictures=features is not None)
    forced = _teacher_forced(plan, console)
    compared: list[RunComparison] = []
    for parts in zip(plan.runs, found, distances, forced, strict=True):
        compared.append(_run(plan, own, *parts, compared[0] if compared else None))
    return Comparison(
        reference=plan.reference.path,
        num_images=plan.reference.num_images,
        images=plan.images,
        prompts=plan.prompts,
        seeds=plan.seeds,
        runs=tuple(compared),
    )


def _run(
    plan: ComparisonPlan,
    own: ComparedImages,
    root: Root,
    found: ComparedImages,
    distance: Distance | Message,
    forced: TeacherForced | Message,
    first: RunComparison | None,
) -> RunComparison:
    """What is said of one run; a message in the place of a part says why it is missing."""
    missing = own.without_picture or found.without_picture
    pictures = missing or Likeness(found.psnr_db, found.ssim)
    prediction = predicted(plan.reference, root)
    parts = (pictures, distance, forced, prediction)
    reasons = {
        name: part for name, part in zip(PARTS, parts, strict=True) if isinstance(part, Message)
    }
    likeness = _found(pictures)
    return RunComparison(
        path=root.path,
        states=states.by_step(np.arange(len(plan.sigma)), plan.sigma, found.error, found.power),
        final_error=found.error[:, -1] / found.power[:, -1],
        pictures=likeness,
        distance=_found(distance),
        teacher_forced=_found(forced),
        predicted=_found(prediction),
        psnr_gain=_gain(likeness, first.pictures)
        if likeness and first and first.pictures
        else None,
        skipped=reasons,
        fitted_images=_fitted(plan.images, root),
    )


def _fitted(images: Sequence[int], run: Root) -> tuple[int, ...]:
    fitted = (run.attributes.get(schema.QUANTIZED) or {}).get(schema.FITTED_IMAGES, ())
    return tuple(image for image in images if image in fitted)


def _found(part: _Part | Message) -> _Part | None:
    return None if isinstance(part, Message) else part


def _gain(pictures: Likeness, first: Likeness) -> figures.Figure:
    """Mean of the paired differences of PSNR; of two infinite ones it is 0."""
    equal = np.isinf(pictures.psnr_db) & np.isinf(first.psnr_db)
    with np.errstate(invalid="ignore"):
        gain = np.where(equal, 0, pictures.psnr_db - first.psnr_db)
    return figures.over_images(gain)


@contextmanager
def _stoppable(
    console: Console, verb: str, unit: str, total: int
) -> Iterator[Callable[[int], None]]:
    """A long run of which nothing is left if it is stopped; gives what reports its progress.

    Raises:
        KeyboardInterrupt: if the user asked to stop.
    """
    with long_run(console, verb, unit, total, stopping=f"after the {unit} in work") as run:

        def advance(amount: int) -> None:
            run.report.advance(amount)
            if run.stops():
                raise KeyboardInterrupt  # which ends the run

        yield advance
    if run.interrupted:
        raise KeyboardInterrupt


def _distances(
    plan: ComparisonPlan,
    own: ComparedImages,
    found: Sequence[ComparedImages],
    console: Console,
    *,
    of_pictures: bool,
) -> list[Distance | Message]:
    """The distance of each run, or why there is none."""
    if len(plan.images) < 2:
        return [Message("it takes two images or more")] * len(found)
    if of_pictures:
        features = [np.concatenate(compared.features) for compared in (own, *found)]
        words = f"{features[0].shape[1]} features of pictures"
        problems = [own.without_picture or compared.without_picture for compared in found]
    else:
        if not np.isfinite(found[0].power[:, -1]).all():
            return [_not_finite(plan.reference)] * len(found)
        latents = LatentComponents.of(plan.reference, plan.images)
        features = [latents.features(root, plan.images) for root in (plan.reference, *plan.runs)]
        words = latents.words
        problems = [
            None if np.isfinite(compared.error[:, -1]).all() else _not_finite(root)
            for root, compared in zip(plan.runs, found, strict=True)
        ]
    total = distance.RESAMPLES * len(found)
    with _stoppable(console, "distance", "resample", total) as advance:
        return [
            problem or distance.distance(features[0], others, words, lambda: advance(1))
            for problem, others in zip(problems, features[1:], strict=True)
        ]


def _not_finite(root: Root) -> Message:
    return Message(f"final states of {root.path} are not finite")


def _teacher_forced(plan: ComparisonPlan, console: Console) -> list[TeacherForced | Message]:
    """The teacher-forced error of each run, or why there is none."""
    kept: dict[tuple[int, ...], list[np.ndarray]] = {}  # the reference's outputs, by their steps
    return [_teacher_forced_of(plan, root, kept, console) for root in plan.runs]


def _teacher_forced_of(
    plan: ComparisonPlan,
    root: Root,
    kept: dict[tuple[int, ...], list[np.ndarray]],
    console: Console,
) -> TeacherForced | Message:
    if _model_identity(plan.reference) == _model_identity(root):
        return Message("its model is the reference's")

    derivable = plan.reference.attributes["latent_dtype"] == "float32"
    try:
        steps = _steps(root, plan.sigma)
        calls = len(plan.images) * len(steps)
        if not derivable and steps not in kept:
            model = _load(plan.reference)
            with _stoppable(console, "reference", "call", calls) as advance:
                kept[steps] = list(
                    teacher_forced.outputs(plan.reference, model, plan.images, steps, advance)
                )
        model = _load(root)
    except _UNUSABLE as error:
        return Message("the model cannot be used: ", getattr(error, "message", str(error)))
    with _stoppable(console, "teacher-forced", "call", calls) as advance:
        exact = (
            teacher_forced.derived_outputs(plan.reference, plan.images, plan.sigma, steps)
            if derivable
            else kept[steps]
        )
        found = teacher_forced.outputs(plan.reference, model, plan.images, steps, advance)
        return teacher_forced.measure(found, exact, steps, plan.sigma)


def _model_identity(root: Root) -> tuple[object, ...]:
    """What decides what a call of a store's model gives."""
    attributes = root.attributes
    quantized = attributes.get(schema.QUANTIZED) or {}
    return attributes["model"], attributes["model_fingerprint"], quantized.get("sha256")


def _steps(root: Root, sigma: np.ndarray) -> tuple[int, ...]:
    """Calls to make: those that the run's configuration predicts the error of, if any."""
    run = runs.stored(root)
    configuration = run and run.configuration
    said = (configuration and configuration.content.get("prediction")) or {}
    steps, levels = said.get("steps", []), said.get("sigma", [])
    if steps and max(steps) < len(sigma) - 1 and np.allclose(sigma[steps], levels, atol=1e-5):
        return tuple(steps)
    return default_steps(len(sigma) - 1)


def _load(root: Root) -> Model:
    """A store's model as it made the store, if its weights are still the same."""
    check_known(root.path, root.attributes)
    model = registry.load(root.attributes["model"])
    check_model(root, model)
    return models.load(root, model)

"""What a comparison says: as figures, as rows of a table, and as sentences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isinf, isnan, nan
from pathlib import Path

import numpy as np
import xarray as xr

from calibzarr.comparison.distance import Distance
from calibzarr.comparison.figures import CONFIDENCE, Figure
from calibzarr.comparison.pictures import Likeness
from calibzarr.comparison.predicted import Predicted
from calibzarr.comparison.states import ErrorByStep
from calibzarr.comparison.teacher_forced import TeacherForced
from calibzarr.datasets import for_users
from calibzarr.errors import Message

PARTS = {
    "pictures": "PSNR and SSIM",
    "distance": "the Frechet distance",
    "teacher_forced": "the teacher-forced error",
    "predicted": "the prediction",
}
"""Parts of a comparison that a store may not allow, in words."""


@dataclass(frozen=True)
class RunComparison:
    """One run against the reference; a part that could not be had is None.

    Attributes:
        path: directory of its store.
        states: relative error of the states by step, free-running.
        final_error: relative error of each image's final state, shape (image,).
        pictures: PSNR and SSIM of each image.
        distance: Frechet distance to the reference's pictures.
        teacher_forced: error of the guided output at the reference's states.
        predicted: what the sensitivities say of that error and of PSNR.
        psnr_gain: mean PSNR over that of the first run, by paired differences, dB; None for the
            first.
        skipped: why parts of :data:`PARTS` are None.
        fitted_images: those compared that the weights of the run's checkpoint were fitted to.
    """

    path: Path
    states: ErrorByStep
    final_error: np.ndarray
    pictures: Likeness | None
    distance: Distance | None
    teacher_forced: TeacherForced | None
    predicted: Predicted | None
    psnr_gain: Figure | None
    skipped: Mapping[str, Message]
    fitted_images: tuple[int, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Runs against a reference, over the images that are complete in all of them.

    Attributes:
        reference: directory of its store.
        num_images: images of the reference, compared or not.
        images: indices of those that were compared.
        prompts: of those.
        seeds: of those.
        runs: one for each run, in the order that they were named in.
    """

    reference: Path
    num_images: int
    images: tuple[int, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[RunComparison, ...]

    def __str__(self) -> str:
        return text(self)

    def to_dataset(self) -> xr.Dataset:
        """All figures as a dataset, with ``long_name`` and ``units``; NaN where there are none.

        Returns:
            By (run, image): ``psnr_db``, ``ssim``, ``final_error``. By (run, step), free-running
            over all states: ``relative_error`` and the ends of its interval, ``relative_error_low``
            and ``_high``; at the reference's states, at the calls that were made:
            ``output_relative_error``, likewise. By run: ``frechet_distance``,
            ``predicted_psnr_db``, ``predicted_output_sqnr_db``.
        """
        variables = {
            **_by_image(self.runs, len(self.images)),
            **_by_step(self.runs),
            **_by_run(self.runs),
        }
        coordinates = {
            "run": names(self),
            "path": ("run", [str(run.path) for run in self.runs]),
            "image": list(self.images),
            "prompt": ("image", np.array(self.prompts, dtype=object)),
            "seed": ("image", list(self.seeds)),
            "step": self.runs[0].states.step,
            "sigma": ("step", self.runs[0].states.sigma),
        }
        attributes = {"reference": str(self.reference), "confidence": CONFIDENCE}
        return for_users(xr.Dataset(variables, coordinates, attributes), _LABELS)


_LABELS = {
    "psnr_db": ("PSNR of the picture", "dB"),
    "ssim": ("structural similarity of the picture", "1"),
    "final_error": ("squared error of the final state over its power", "1"),
    "relative_error": ("squared error of the states over their power, free-running", "1"),
    "relative_error_low": ("lower end of its interval of confidence", "1"),
    "relative_error_high": ("upper end of its interval of confidence", "1"),
    "output_relative_error": ("squared error of the guided output over its power", "1"),
    "output_relative_error_low": ("lower end of its interval of confidence", "1"),
    "output_relative_error_high": ("upper end of its interval of confidence", "1"),
    "frechet_distance": ("Frechet distance to the reference's pictures", "1"),
    "predicted_psnr_db": ("PSNR of pictures that sensitivities predict", "dB"),
    "predicted_output_sqnr_db": ("SQNR of the guided output that sensitivities predict", "dB"),
    "run": ("name of the run", "1"),
    "path": ("directory of the run", "1"),
    "image": ("index in the reference", "1"),
    "prompt": ("text that the image was made from", "1"),
    "seed": ("seed of the image's first noise", "1"),
    "step": ("index of the state", "1"),
    "sigma": ("noise level of the state", "1"),
}
_Variables = dict[str, tuple[str | tuple[str, str], np.ndarray]]


def _by_image(runs: Sequence[RunComparison], count: int) -> _Variables:
    missing = Likeness(np.full(count, nan), np.full(count, nan))
    pictures = [run.pictures or missing for run in runs]
    values = {
        "psnr_db": [one.psnr_db for one in pictures],
        "ssim": [one.ssim for one in pictures],
        "final_error": [run.final_error for run in runs],
    }
    return {name: (("run", "image"), np.stack(rows)) for name, rows in values.items()}


def _by_step(runs: Sequence[RunComparison]) -> _Variables:
    """Errors at the states, and of the output at the calls that were made."""
    step = runs[0].states.step
    forced = (run.teacher_forced for run in runs)
    found: dict[str, list[ErrorByStep | None]] = {
        "": [run.states for run in runs],
        "output_": [None if error is None else error.by_step for error in forced],
    }
    variables: _Variables = {}
    for prefix, errors in found.items():
        for part in ("relative_error", "low", "high"):
            values = np.full((len(runs), len(step)), nan)
            for row, error in zip(values, errors, strict=True):
                if error is not None:
                    row[np.searchsorted(step, error.step)] = getattr(error, part)
            suffix = "" if part == "relative_error" else f"_{part}"
            variables[f"{prefix}relative_error{suffix}"] = (("run", "step"), values)
    return variables


def _by_run(runs: Sequence[RunComparison]) -> _Variables:
    predicted = [run.predicted for run in runs]
    values = {
        "frechet_distance": [run.distance.figure.value if run.distance else nan for run in runs],
        "predicted_psnr_db": [one.picture_psnr_db if one else nan for one in predicted],
        "predicted_output_sqnr_db": [one.output_sqnr_db if one else nan for one in predicted],
    }
    return {name: ("run", np.array(row, dtype=float)) for name, row in values.items()}


HEADINGS = ("", "PSNR dB", "SSIM", "Frechet", "latents dB", "output dB")
_FORMATS = (".1f", ".3f", ".3g", ".1f", ".1f")
_PROMPT = 60  # characters of a prompt that are quoted
_NUM_STATES = 6  # whose error is told


def names(comparison: Comparison) -> list[str]:
    """What each run is called: its file name, or its path where two have the same."""
    short = [run.path.name for run in comparison.runs]
    unique = len({*short, comparison.reference.name}) == len(short) + 1
    return short if unique else [str(run.path) for run in comparison.runs]


def rows(comparison: Comparison) -> list[list[str]]:
    """Cells under ``HEADINGS``: of each run its figures, their intervals, and what was predicted.

    ``latents`` is the SQNR of the final states, ``output`` the teacher-forced one.
    """
    found = []
    for name, run in zip(names(comparison), comparison.runs, strict=True):
        for label, part in ((name, "value"), ("  95 % from", "low"), ("  95 % to", "high")):
            found.append([label, *(cell(getattr(f, part), form) for f, form in figures(run))])
        if run.predicted is not None:
            psnr, output = run.predicted.picture_psnr_db, run.predicted.output_sqnr_db
            found.append(["  predicted", cell(psnr, ".1f"), "", "", "", cell(output, ".1f")])
    return found


def figures(run: RunComparison) -> list[tuple[Figure, str]]:
    """Figures under ``HEADINGS`` but the first, each with its format; NaN where one is missing."""
    missing = Figure(nan)
    found = (
        run.pictures.psnr if run.pictures else missing,
        run.pictures.mean_ssim if run.pictures else missing,
        run.distance.figure if run.distance else missing,
        run.states.figure(-1),
        run.teacher_forced.output_sqnr if run.teacher_forced else missing,
    )
    return list(zip(found, _FORMATS, strict=True))


def cell(value: float, form: str) -> str:
    """A figure in words; empty where it is not known."""
    if isnan(value):
        return ""
    return "infinite" if isinf(value) else format(value, form)


def sentences(comparison: Comparison) -> Iterator[Message]:
    """What the table does not say."""
    for name, run in zip(names(comparison), comparison.runs, strict=True):
        if not np.isinf(run.states.sqnr_db).all():
            yield Message(f"{name}: {_about_states(run)}")
        if run.pictures is not None:
            yield Message(f"{name}: {_about_pictures(comparison, run)}")
        if run.psnr_gain is not None:
            yield Message(f"{name}: {_about_gain(run.psnr_gain, names(comparison)[0])}")
        if run.predicted is not None and run.predicted.shares:
            yield Message(f"{name}: {_about_shares(run)}")
        if run.fitted_images:
            yield Message(f"{name}: {about_fitted(run)}")
        for part, reason in run.skipped.items():
            yield Message(f"{name}: without {PARTS[part]}: ", reason)


def _about_pictures(comparison: Comparison, run: RunComparison) -> str:
    assert run.pictures is not None
    psnr, worst = run.pictures.psnr_db, run.pictures.worst
    if isinf(psnr[worst]):
        return "all pictures are equal to the reference's: infinite dB"
    prompt = comparison.prompts[worst]
    quoted = prompt if len(prompt) <= _PROMPT else f"{prompt[:_PROMPT].rstrip()} ..."
    median = run.pictures.median_psnr.value
    return (
        f"median PSNR {cell(median, '.1f')} dB, SSIM {run.pictures.median_ssim.value:.3f}; worst "
        f"is image {comparison.images[worst]}, {psnr[worst]:.1f} dB, SSIM "
        f"{run.pictures.ssim[worst]:.3f}: {quoted!r}"
    )


def about_fitted(run: RunComparison) -> str:
    """What the user should know of figures over images that a checkpoint was fitted to."""
    return (
        f"the checkpoint was fitted to {len(run.fitted_images)} of the {len(run.final_error)} "
        "images compared; on others it may lose more"
    )


def _about_gain(gain: Figure, first: str) -> str:
    if isinf(gain.value):
        return f"PSNR over {first}: infinite"
    ends = "" if isnan(gain.low) else f", from {gain.low:+.2f} to {gain.high:+.2f}"
    return f"PSNR over {first}: {gain.value:+.2f} dB{ends}"


def _about_states(run: RunComparison) -> str:
    sqnr = run.states.sqnr_db
    steps = np.unique(np.linspace(0, len(sqnr) - 1, _NUM_STATES).round().astype(int))
    listed = ", ".join(f"{step}: {cell(sqnr[step], '.1f')}" for step in steps)
    return f"SQNR of the states, free-running, dB, at step {listed}"


def _about_shares(run: RunComparison) -> str:
    assert run.predicted is not None
    listed = (
        f"\n{100 * share.share:7.1f} %  {share.layer} {share.kind}s, step {share.step}"
        for share in run.predicted.shares
    )
    return "of the predicted error of pictures are made by" + "".join(listed)


def heading(comparison: Comparison) -> str:
    """What was compared with what."""
    return (
        f"{len(comparison.images)} of {comparison.num_images} images of {comparison.reference} are "
        "complete in all stores, and compared"
    )


def text(comparison: Comparison) -> str:
    """All of it, as plain text."""
    table = [HEADINGS, *rows(comparison)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [_line(row, widths) for row in table]
    return "\n".join([heading(comparison), *lines, *map(str, sentences(comparison))])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.rjust(width) if index else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()

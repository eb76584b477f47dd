"""A comparison as files: JSON with all figures, and CSV with a row an image and run."""

import csv
import io
from dataclasses import asdict
from math import isfinite, isinf
from typing import Any

import numpy as np

from calibzarr.comparison.figures import CONFIDENCE, Figure
from calibzarr.comparison.predicted import Predicted
from calibzarr.comparison.result import Comparison, RunComparison
from calibzarr.comparison.states import ErrorByStep
from calibzarr.export.writing import as_json

SCHEMA_VERSION = 1
COLUMNS = ("run", "image", "prompt", "seed", "psnr_db", "ssim", "final_error")


def json_bytes(comparison: Comparison) -> bytes:
    """All figures: null where one is infinite, which ``infinite`` says, or not known."""
    return as_json(
        {
            "schema_version": SCHEMA_VERSION,
            "reference": str(comparison.reference),
            "num_images": len(comparison.images),
            "confidence": CONFIDENCE,
            "images": [
                {"image": image, "prompt": prompt, "seed": seed}
                for image, prompt, seed in zip(
                    comparison.images, comparison.prompts, comparison.seeds, strict=True
                )
            ],
            "runs": [_run(comparison, run) for run in comparison.runs],
        }
    )


def csv_bytes(comparison: Comparison) -> bytes:
    """A row an image and run, by :data:`COLUMNS`; ``inf`` dB where two pictures are equal."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in comparison.runs:
        for position, image in enumerate(comparison.images):
            likeness = run.pictures
            psnr, ssim = (
                ("", "")
                if likeness is None
                else (float(likeness.psnr_db[position]), float(likeness.ssim[position]))
            )
            prompt, seed = comparison.prompts[position], comparison.seeds[position]
            error = float(run.final_error[position])
            writer.writerow([run.path, image, prompt, seed, psnr, ssim, error])
    return file.getvalue().encode()


def _run(comparison: Comparison, run: RunComparison) -> dict[str, Any]:
    return {
        "path": str(run.path),
        "states": _by_step(run.states),
        "final_error": _numbers(run.final_error),
        "pictures": _pictures(comparison, run),
        "frechet_distance": run.distance
        and {"features": run.distance.features, **_figure(run.distance.figure)},
        "teacher_forced": run.teacher_forced
        and {
            "output_sqnr_db": _figure(run.teacher_forced.output_sqnr),
            **_by_step(run.teacher_forced.by_step),
        },
        "predicted": run.predicted and _predicted(run.predicted),
        "psnr_gain_db": run.psnr_gain and _figure(run.psnr_gain),
        "fitted_images": list(run.fitted_images),
        "skipped": {part: str(reason) for part, reason in run.skipped.items()},
    }


def _predicted(predicted: Predicted) -> dict[str, Any]:
    return {
        "output_sqnr_db": _number(predicted.output_sqnr_db),
        "picture_psnr_db": _number(predicted.picture_psnr_db),
        "step": list(predicted.step),
        "sqnr_db": [_number(value) for value in predicted.by_step],
        "shares": [asdict(share) for share in predicted.shares],
    }


def _pictures(comparison: Comparison, run: RunComparison) -> dict[str, Any] | None:
    likeness = run.pictures
    if likeness is None:
        return None
    worst = likeness.worst
    return {
        "psnr_db": {
            "mean": _figure(likeness.psnr),
            "median": _figure(likeness.median_psnr),
            "by_image": _numbers(likeness.psnr_db),
        },
        "ssim": {
            "mean": _figure(likeness.mean_ssim),
            "median": _figure(likeness.median_ssim),
            "by_image": _numbers(likeness.ssim),
        },
        "worst": {
            "image": comparison.images[worst],
            "prompt": comparison.prompts[worst],
            "psnr_db": _number(likeness.psnr_db[worst]),
            "ssim": float(likeness.ssim[worst]),
        },
    }


def _by_step(errors: ErrorByStep) -> dict[str, Any]:
    return {
        "step": errors.step.tolist(),
        "sigma": _numbers(errors.sigma),
        **{name: _numbers(getattr(errors, name)) for name in ("relative_error", "low", "high")},
        "sqnr_db": _numbers(errors.sqnr_db),
    }


def _figure(figure: Figure) -> dict[str, Any]:
    ends = {name: _number(getattr(figure, name)) for name in ("value", "low", "high")}
    return {**ends, "infinite": isinf(figure.value)}


def _numbers(values: np.ndarray) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    return float(value) if isfinite(value) else None

"""What a build that is planned will take, without a model and without asking anybody."""

from dataclasses import dataclass

import numpy as np

from calibzarr.sampling.plan import BuildPlan
from calibzarr.storage import schema


@dataclass(frozen=True)
class Forecast:
    """What a build will take.

    Attributes:
        images: images to build now.
        disk_bytes: estimate of what they take on disk.
        weight_bytes: of the model's weights in 16 bits; None if not known.
        batch_bytes: estimate of what a batch takes in memory besides; None if not known.
        seconds: by the times of the images that are there; None if there are too few.
    """

    images: int
    disk_bytes: int
    weight_bytes: int | None
    batch_bytes: int | None
    seconds: float | None


def forecast(plan: BuildPlan) -> Forecast:
    """What a build will take."""
    missing, settings, entry = plan.missing(), plan.settings, plan.entry
    sizes = settings.batch_size, settings.image_size, settings.num_steps
    guided = settings.cfg_weight > 0
    per_group = _seconds_of_a_group(plan)
    groups = len({image // settings.batch_size for image in missing})
    return Forecast(
        images=len(missing),
        disk_bytes=len(missing) * plan.image_bytes,
        weight_bytes=entry.weight_bytes,
        batch_bytes=entry.batch_bytes(*sizes, guided=guided) if entry.batch_bytes else None,
        seconds=None if per_group is None else groups * per_group,
    )


def _seconds_of_a_group(plan: BuildPlan) -> float | None:
    """Median time between groups of images that were sampled together, by their files' times."""
    if plan.root is None:
        return None
    last: dict[int, float] = {}
    for file in (plan.path / schema.LATENTS.name).iterdir():
        image = schema.LATENTS.index(file.name)
        if image is not None:
            group = image // plan.settings.batch_size
            last[group] = max(last.get(group, 0.0), file.stat().st_mtime)
    times = np.sort(list(last.values()))
    return float(np.median(np.diff(times))) if len(times) > 1 else None

"""The error of a quantized checkpoint's guided output on images that nothing was fitted to."""

from collections.abc import Callable

import numpy as np

from calibzarr.collecting.replay import Replay
from calibzarr.export.checkpoint_plan import CheckpointPlan
from calibzarr.models.base import Model

Outputs = dict[int, list[np.ndarray]]
"""Guided outputs by call, of each image, float64."""


def outputs(plan: CheckpointPlan, model: Model, advance: Callable[[], None]) -> Outputs:
    """What a model says at the reference's states of the images held out.

    Args:
        plan: of the checkpoint.
        model: quantized or not.
        advance: called after each call.
    """
    replay = Replay.of(plan.root, model, plan.held_out)
    steps = plan.measured.steps.tolist()
    found: Outputs = {step: [] for step in steps}
    for image in plan.held_out:
        batch = replay.batch([image])
        for step in steps:
            denoised = model.to_numpy(batch.denoised(step))
            velocity = (batch.latents[:, step] - denoised) / replay.schedule.sigma[step]
            found[step].append(velocity.astype(np.float64))
            advance()
    return found


def sqnr_by_call(expected: Outputs, actual: Outputs) -> dict[int, float]:
    """Power of the outputs of all images over that of their error, dB."""
    return {
        step: float(
            10
            * np.log10(
                sum(np.square(output).sum() for output in values)
                / sum(
                    np.square(output - other).sum()
                    for output, other in zip(values, actual[step], strict=True)
                )
            )
        )
        for step, values in expected.items()
        if values
    }

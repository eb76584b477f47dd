"""The learning rate over the steps of a training."""

from collections.abc import Callable

import mlx.core as mx
import mlx.optimizers as optimizers

FIRST = 1e-5


def warm_then_cosine(peak: float, warmup: int, steps: int) -> Callable[[mx.array], mx.array]:
    """A learning rate that grows for ``warmup`` steps, then falls to a hundredth like a cosine.

    Args:
        peak: the largest.
        warmup: steps; at most half of all.
        steps: in all.
    """
    warmup = min(warmup, steps // 2)
    fall = optimizers.cosine_decay(peak, max(1, steps - warmup), 0.01 * peak)
    if warmup == 0:
        return fall
    rise = optimizers.linear_schedule(FIRST, peak, warmup)
    return optimizers.join_schedules([rise, fall], [warmup])

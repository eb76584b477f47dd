"""Which steps of a sampling are looked at, and what they are called."""

from collections.abc import Mapping

import numpy as np


def key_steps(num_steps: int) -> tuple[int, ...]:
    """Steps that stand for a whole sampling, denser in its middle third.

    Both ends, the quarters, every third step of the middle phase and every fifth of the others.

    Args:
        num_steps: model calls; steps run from 0 to this, which is the final state.

    Raises:
        ValueError: if ``num_steps`` is not positive.

    >>> key_steps(50)
    (0, 5, 10, 12, 15, 16, 19, 22, 25, 28, 31, 34, 37, 39, 44, 49, 50)
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be 1 or more, got {num_steps}")
    third = phases(num_steps)
    quarters = (0, num_steps // 4, num_steps // 2, 3 * num_steps // 4, num_steps)
    chosen = {*quarters, *third["early"][::5], *third["mid"][::3], *third["late"][::5]}
    return tuple(sorted(chosen))


def phases(num_steps: int) -> Mapping[str, range]:
    """The thirds of a sampling, by name.

    >>> phases(50)
    {'early': range(0, 16), 'mid': range(16, 34), 'late': range(34, 51)}
    """
    first, second = num_steps // 3, 2 * num_steps // 3 + 1
    return {
        "early": range(first),
        "mid": range(first, second),
        "late": range(second, num_steps + 1),
    }


def phases_of_calls(num_steps: int) -> Mapping[str, range]:
    """The same without the final state, which is no call, and without phases that have none.

    >>> phases_of_calls(50)["late"], phases_of_calls(2)
    (range(34, 50), {'mid': range(0, 2)})
    """
    calls = {name: phase[: num_steps - phase.start] for name, phase in phases(num_steps).items()}
    return {name: phase for name, phase in calls.items() if phase}


def falls_to_zero(sigma: np.ndarray) -> bool:
    """Whether noise levels, shape (step,), are finite, decrease at every step, and end at 0."""
    return bool(np.isfinite(sigma).all() and sigma[-1] == 0 and (np.diff(sigma) < 0).all())

"""Bits for each group of layers within a budget: NumPy in, NumPy out."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_GAP = 1e-6  # of the least error, up to which a choice need not be the best
_NODES = 20_000  # of the search; what it has then is as good as the relaxation, or better
_ROUNDING = 1e-9  # of the budget
_SCALE = 1e3  # of the error and of the budget for the solver, whose tolerances are absolute
_HALVINGS = 100


def feasible_mean(cost: np.ndarray, size: np.ndarray) -> tuple[float, float]:
    """The least and the greatest mean that there is.

    Args:
        cost: of each option, shape (group, option); infinite where there is none.
        size: what a group counts in the mean, shape (group,).
    """
    least, greatest = cost.min(axis=1), np.where(np.isinf(cost), 0, cost).max(axis=1)
    return float(least @ size / size.sum()), float(greatest @ size / size.sum())


def allocate(error: np.ndarray, cost: np.ndarray, size: np.ndarray, mean: float) -> np.ndarray:
    """Choose the option of each group that together make the least error within a budget.

    Minimises the sum of errors subject to ``sum(size * cost) <= mean * sum(size)``: the
    multiple-choice knapsack problem (Sinha and Zoltners 1979), solved as an integer program after
    its Lagrangian relaxation (Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary
    set of quantizers") has given a bound and a scale.

    Args:
        error: of each option, shape (group, option), 0 or more.
        cost: of each option, such as exact bits, likewise; infinite where there is none.
        size: what a group counts in the mean, shape (group,), more than 0.
        mean: the most that the mean cost may be, up to rounding.

    Returns:
        Position of the chosen option, shape (group,).

    Raises:
        ValueError: if the mean is below the least.

    >>> allocate(np.array([[9.0, 1, 0.5], [9, 4, 1]]), np.array([[2.0, 4, 8]] * 2), np.ones(2), 6)
    array([1, 2])
    """
    least, greatest = feasible_mean(cost, size)
    if not mean >= least * (1 - _ROUNDING):
        raise ValueError(f"a mean of {mean:g} is below the least, {least:g}")
    offered = np.isfinite(cost)
    error = np.where(offered, error, np.inf)
    used = np.where(offered, cost, 0) * (size / size.sum())[:, None]
    capacity = min(mean, greatest) * (1 + _ROUNDING)
    relaxed = _relaxed(error, used, offered, capacity)
    total = _at(error, relaxed).sum()
    if total == 0 or len(size) == 1 or mean >= greatest:
        return relaxed
    # An option that alone makes more error than all of the relaxation's is in no best choice.
    kept = offered & (error <= total)
    solved = _solved(np.where(kept, error, 0) / total, used, kept, capacity)
    if solved is None or _at(error, solved).sum() >= total:
        return relaxed
    return solved


def _at(values: np.ndarray, option: np.ndarray) -> np.ndarray:
    return np.asarray(values[np.arange(len(values)), option])


def _relaxed(
    error: np.ndarray, used: np.ndarray, offered: np.ndarray, capacity: float
) -> np.ndarray:
    """The choice at the least price of the budget that keeps it."""

    def choice(price: float) -> np.ndarray:
        return np.asarray(np.where(offered, error + price * used, np.inf).argmin(axis=1))

    def keeps(option: np.ndarray) -> bool:
        return bool(_at(used, option).sum() <= capacity)

    best = np.where(offered, used, np.inf).argmin(axis=1)
    finite = error[offered & (error > 0)]
    if not finite.size or keeps(choice(0)):
        return choice(0) if keeps(choice(0)) else np.asarray(best)
    low, high = np.log(finite.min()) - 40, np.log(finite.max()) + 40
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = choice(np.exp(middle))
        if keeps(found):
            best, high = found, middle
        else:
            low = middle
    return np.asarray(best)


def _solved(
    error: np.ndarray, used: np.ndarray, kept: np.ndarray, capacity: float
) -> np.ndarray | None:
    """The integer program; None if the solver ends without a choice that keeps the budget."""
    from scipy.optimize import LinearConstraint, milp
    from scipy.sparse import csr_array, vstack

    group, option = np.nonzero(kept)
    columns = np.arange(len(group))
    one_each = csr_array((np.ones(len(group)), (group, columns)), (len(error), len(group)))
    row = csr_array(used[group, option][None] * (_SCALE / capacity))
    constraints = LinearConstraint(
        vstack([one_each, row]),
        np.append(np.ones(len(error)), -np.inf),
        np.append(np.ones(len(error)), _SCALE),
    )
    with _silent():
        result = milp(
            error[group, option] * _SCALE,
            integrality=np.ones(len(group)),
            bounds=(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": _GAP, "node_limit": _NODES},
        )
    if result.x is None:
        return None
    chosen = np.zeros(error.shape)
    chosen[group, option] = result.x
    solved = chosen.argmax(axis=1)
    return solved if _at(used, solved).sum() <= capacity else None


@contextmanager
def _silent() -> Iterator[None]:
    """Without what HiGHS prints to the process's output, whatever it is told (SciPy 1.17)."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what C has not written yet
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)

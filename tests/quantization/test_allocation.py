from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibzarr.quantization.allocation import allocate, feasible_mean

SEEDS = st.integers(0, 2**32 - 1)


def problem(seed, groups, options, *, missing=False, equal=False):
    generator = np.random.default_rng(seed)
    error = 10.0 ** (generator.uniform(-6, 3, (groups, 1)) - np.arange(options) * 0.6)
    error *= generator.uniform(0.7, 1.4, error.shape)
    cost = np.arange(2.0, 2 + options) + generator.uniform(0, 0.5, (groups, 1))
    size = generator.integers(1, 10_000, groups).astype(float)
    if equal:
        cost, size = np.tile(np.arange(2.0, 2 + options), (groups, 1)), np.ones(groups)
    if missing:
        cost[generator.random(cost.shape) < 0.3] = np.inf
        cost[np.isinf(cost).all(axis=1), 0] = 2.0
    return error, cost, size


def totals(error, cost, size, option):
    rows = range(len(size))
    return (
        sum(error[row, option[row]] for row in rows),
        sum(size[row] * cost[row, option[row]] for row in rows) / size.sum(),
    )


@given(SEEDS, st.floats(0, 1), st.booleans(), st.booleans())
def test_no_choice_within_the_budget_makes_less_error(seed, share, missing, equal):
    error, cost, size = problem(seed, 5, 4, missing=missing, equal=equal)
    least, greatest = feasible_mean(cost, size)
    mean = least + share * (greatest - least)
    chosen = allocate(error, cost, size, mean)
    made, used = totals(error, cost, size, chosen)
    assert used <= mean * (1 + 1e-8)
    best = np.inf
    for option in product(range(4), repeat=5):
        other, needed = totals(error, cost, size, option)
        if needed <= mean:
            best = min(best, other)
    assert made <= best * (1 + 1e-5)


@given(SEEDS, st.integers(0, 6))
def test_never_worse_than_uniform_options_of_equal_cost(seed, column):
    error, cost, size = problem(seed, 40, 7)
    uniform, mean = totals(error, cost, size, [column] * 40)
    made, used = totals(error, cost, size, allocate(error, cost, size, mean))
    assert used <= mean * (1 + 1e-8)
    assert made <= uniform * (1 + 1e-9)


@pytest.mark.parametrize("mean", [2.9, 4.0, 5.5, 7.3])
def test_many_groups_are_near_the_bound_of_the_lagrangian(mean):
    """For any price, the least of error + price * cost over all options bounds every choice."""
    error, cost, size = problem(1, 387, 18)
    cost = cost[:, :1] + (cost - cost[:, :1]) / 3
    made, used = totals(error, cost, size, allocate(error, cost, size, mean))
    share = size / size.sum()
    bounds = [
        (error + price * share[:, None] * cost).min(axis=1).sum() - price * mean
        for price in np.exp(np.linspace(-30, 30, 4000))
    ]
    assert used <= mean * (1 + 1e-8)
    assert max(bounds) * (1 - 1e-9) <= made <= max(bounds) * 1.001


def test_the_solver_prints_nothing(capfd):
    for seed in range(5):
        error, cost, size = problem(seed, 60, 7)
        allocate(error, cost, size, 3.1)
    assert capfd.readouterr() == ("", "")


def test_a_mean_below_the_least_is_refused():
    error, cost, size = problem(0, 3, 4)
    least = feasible_mean(cost, size)[0]
    with pytest.raises(ValueError, match="below the least"):
        allocate(error, cost, size, least * 0.99)
    with pytest.raises(ValueError, match="below the least"):
        allocate(error, cost, size, np.nan)


def test_errors_of_nothing_take_the_least_that_makes_none():
    cost = np.tile([2.0, 3.0], (3, 1))
    chosen = allocate(np.zeros((3, 2)), cost, np.ones(3), 2.5)
    assert chosen.tolist() == [0, 0, 0]

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibzarr.quantization.allocation import allocate, tie

ROUNDING = 1e-12


def brute_force(error, cost, bits, budget):
    """Least total error of all choices within the budget."""
    groups, options = error.shape
    choices = np.array(list(product(range(options), repeat=groups)))
    within = (cost * bits[choices]).sum(axis=1) <= budget * (1 + ROUNDING)
    return error[np.arange(groups), choices[within]].sum(axis=1).min()


def total(error, option):
    """Of a choice."""
    return error[np.arange(len(option)), option].sum()


def tabulated(error, weight, capacity):
    """Least total error by dynamic programming over whole weights: shape (group, option)."""
    least = np.zeros(capacity + 1)
    for errors, weights in zip(error, weight, strict=True):
        extended = np.full(capacity + 1, np.inf)
        for own, used in zip(errors, weights, strict=True):
            if used <= capacity:
                np.minimum(extended[used:], least[: capacity + 1 - used] + own, out=extended[used:])
        least = extended
    return least[capacity]


def greedy(error, cost, bits, budget):
    """From the fewest bits on, the change of one group that gains the most per cost, while it fits.

    A reference in plain Python.
    """
    option = [0] * len(error)
    left = budget * (1 + 1e-14) - sum(cost * bits[0])
    while True:
        changes = []
        for group, errors in enumerate(error):
            for target in range(option[group] + 1, len(bits)):
                gain = errors[option[group]] - errors[target]
                extra = cost[group] * (bits[target] - bits[option[group]])
                if gain > 0 and extra <= left:
                    changes.append((gain / extra, extra, group, target))
        if not changes:
            return np.array(option)
        _, extra, group, target = max(changes)
        option[group] = target
        left -= extra


@st.composite
def problems(draw, max_groups=6):
    """Errors that need not fall with bits, integer or float, over many magnitudes."""
    groups, options = draw(st.integers(1, max_groups)), draw(st.integers(1, 4))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (groups, options)
    error = {
        "random": lambda: generator.random(shape),
        "equal": lambda: generator.integers(0, 4, shape).astype(float),
        "falling": lambda: generator.random((groups, 1)) * 4.0 ** -np.arange(options),
        "wide": lambda: np.exp(10 * generator.standard_normal(shape)),
    }[draw(st.sampled_from(["random", "equal", "falling", "wide"]))]()
    whole = draw(st.booleans())
    cost = generator.integers(1, 9, groups) if whole else generator.random(groups) + 0.01
    bits = np.sort(generator.choice(np.arange(1, 9), options, replace=False))
    mean_bits = draw(st.floats(float(bits[0]), float(bits[-1]) + 1))
    return error, cost, bits, max(mean_bits * cost.sum(), (cost * bits[0]).sum())


@given(problems())
def test_no_other_choice_within_the_budget_has_less_error(problem):
    error, cost, bits, budget = problem
    option = allocate(error, cost, bits, budget)
    assert (cost * bits[option]).sum() <= budget * (1 + ROUNDING)
    assert total(error, option) <= brute_force(error, cost, bits, budget) * (1 + ROUNDING)


@given(problems(), st.integers(0, 2**32))
def test_a_choice_from_few_states_keeps_the_budget_and_is_no_worse_than_the_greedy_one(
    problem, seed
):
    error, cost, bits, budget = problem
    # Where gains per cost are equal, which is first is chance.
    error = error * (1 + 1e-3 * np.random.default_rng(seed).random(error.shape))
    option = allocate(error, cost, bits, budget, max_states=1)
    assert (cost * bits[option]).sum() <= budget * (1 + ROUNDING)
    best = brute_force(error, cost, bits, budget)
    assert best * (1 - ROUNDING) <= total(error, option)
    assert total(error, option) <= total(error, greedy(error, cost, bits, budget)) * (1 + ROUNDING)


def model(groups=300, seed=0):
    """Errors that fall about fourfold with each bit, and multiply-accumulates of layers."""
    generator = np.random.default_rng(seed)
    bits = np.array([2, 4, 6, 8])
    cost = generator.choice([1.7e8, 1e9, 2.5e9, 4e9], groups)
    sensitivity = np.exp(2 * generator.standard_normal((groups, 1)))
    noise = np.exp(0.2 * generator.standard_normal((groups, 4)))
    return sensitivity * 4.0**-bits * cost[:, None] * noise, cost, bits


@pytest.mark.parametrize("mean_bits", [2.0, 3.0, 4.1, 5.5, 7.9, 8.0, 20.0])
def test_a_whole_model_is_settled_exactly(mean_bits):
    error, cost, bits = model()
    option = allocate(error, cost, bits, mean_bits * cost.sum())
    assert (cost * bits[option]).sum() <= mean_bits * cost.sum() * (1 + ROUNDING)
    weight = np.rint(cost[:, None] * bits / 2e7).astype(int)  # costs are multiples of 1e7
    capacity = int(min(mean_bits * cost.sum() / 2e7 + 1e-3, weight[:, -1].sum()))
    least = tabulated(error, weight, capacity)
    assert total(error, option) == pytest.approx(least, rel=ROUNDING)


def test_the_least_error_is_nearly_met_where_costs_alone_decide():
    # A sum of subsets: an error that is a straight line of the cost leaves nothing to exclude.
    generator = np.random.default_rng(1)
    cost, bits = generator.random(300) + 0.1, np.array([2, 4, 6, 8])
    error, budget = cost[:, None] * (8 - bits), 4.3 * cost.sum()
    option = allocate(error, cost, bits, budget)
    least = 8 * cost.sum() - budget
    assert least * (1 - ROUNDING) <= total(error, option) <= least * (1 + 1e-6)


def test_more_budget_never_costs_error():
    error, cost, bits = model(groups=40)
    budgets = np.linspace(2, 8, 25) * cost.sum()
    errors = [total(error, allocate(error, cost, bits, budget)) for budget in budgets]
    assert (np.diff(errors) <= ROUNDING * errors[0]).all()
    assert errors[0] == pytest.approx(error[:, 0].sum())
    assert errors[-1] == pytest.approx(error.min(axis=1).sum())


def test_a_budget_as_the_mean_of_bits_is_not_lost_to_rounding():
    cost = np.full(10, 0.1)
    error = np.tile([4.0, 1.0], (10, 1))
    budget = sum([0.1] * 10) * 4  # less than cost.sum() * 4
    np.testing.assert_array_equal(allocate(error, cost, [2, 4], budget), np.ones(10))


def test_tied_layers_have_equal_bits():
    error, cost, bits = model(groups=12)
    groups = np.arange(12) // 3
    tied_error, tied_cost = tie(error, groups), tie(cost, groups)
    np.testing.assert_allclose(tied_error, error.reshape(4, 3, 4).sum(axis=1))
    option = allocate(tied_error, tied_cost, bits, 4.5 * cost.sum())[groups]
    assert (cost * bits[option]).sum() <= 4.5 * cost.sum()
    choices = np.array(list(product(range(4), repeat=4)))[:, groups]
    within = (cost * bits[choices]).sum(axis=1) <= 4.5 * cost.sum()
    least = error[np.arange(12), choices[within]].sum(axis=1).min()
    assert error[np.arange(12), option].sum() == pytest.approx(least)


def test_a_budget_below_the_fewest_bits_names_them():
    with pytest.raises(ValueError, match=r"allows 1\.9 bits on average; the least are 2, so"):
        allocate(np.ones((3, 2)), np.array([1, 2, 3]), np.array([2, 4]), 1.9 * 6)


@pytest.mark.parametrize(
    ("error", "cost", "bits", "message"),
    [
        (np.ones((2, 3)), np.ones(2), [2, 4], r"got \(2, 3\) for costs of shape \(2,\)"),
        (np.ones((0, 2)), np.ones(0), [2, 4], "shape"),
        (-np.ones((2, 2)), np.ones(2), [2, 4], "0 or more"),
        (np.full((2, 2), np.nan), np.ones(2), [2, 4], "finite"),
        (np.ones((2, 2)), np.zeros(2), [2, 4], "more than 0"),
        (np.ones((2, 2)), np.ones(2), [4, 2], r"increase, got \[4\.0, 2\.0\]"),
    ],
)
def test_values_that_mean_nothing_are_refused(error, cost, bits, message):
    with pytest.raises(ValueError, match=message):
        allocate(error, cost, bits, 100.0)


def test_a_budget_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="nan bits"):
        allocate(np.ones((1, 1)), np.ones(1), [2], float("nan"))

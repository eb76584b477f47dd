from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibzarr.advice.methods.base import (
    CHOICES,
    Layers,
    QuantizationError,
    by_budget,
    by_range,
    by_target,
    clips_at_tails,
    decibels,
    fewest_bits,
    range_rule,
)
from calibzarr.errors import OptionError
from tests.support.layers import INSIDE, LINEAR, PARTS, TIED, layers, noise

BITS = np.array(CHOICES)
SEEDS = st.integers(0, 2**32 - 1)

INSIDE[4, :4] = True


@given(SEEDS, st.floats(-5, 60))
def test_fewest_bits_are_those_of_a_loop(seed, target):
    sqnr = np.random.default_rng(seed).uniform(0, 50, (5, 4))
    sqnr[0] = np.sort(sqnr[0])
    for row, index in zip(sqnr, fewest_bits(sqnr, target), strict=True):
        assert index == next((i for i, reached in enumerate(row) if reached >= target), 3)


def test_fewest_bits_treats_what_is_unknown_as_missed():
    assert fewest_bits(np.array([np.nan, np.nan, 31.0, 40.0]), 30) == 2
    assert fewest_bits(np.full((2, 4), np.nan), 30).tolist() == [3, 3]
    assert fewest_bits(np.array([30.0, 40.0, 50.0, np.inf]), 30) == 0


def test_decibels():
    np.testing.assert_allclose(decibels(np.array([1.0, 0.1, 0.001])), [0, 10, 30], atol=1e-12)
    assert decibels(np.array(0.0)) == np.inf
    assert np.isnan(decibels(np.array(np.nan)))


@given(st.floats(-100, 100), st.floats(0, 30), st.floats(0, 30))
def test_range_rule_is_the_old_scripts(p01, width, std):
    p99 = p01 + width
    central = p99 - p01
    bits = 8 if central > 10 else 6 if central > 5 else 4
    if central > 0 and std / central > 0.5:
        bits = min(bits + 2, 8)
    if central > 0:
        assert range_rule(np.array(std), np.array(p01), np.array(p99)) == bits


@pytest.mark.parametrize(
    ("width", "std", "bits"),
    [
        (5.0, 1, 4),
        (5.001, 1, 6),
        (10.0, 1, 6),
        (10.001, 1, 8),
        (4.0, 2.0, 4),
        (4.0, 2.001, 6),
        (8.0, 4.1, 8),
        (20.0, 11.0, 8),
        (0.0, 0.0, 4),
    ],
)
def test_range_rule_at_its_limits(width, std, bits):
    assert range_rule(np.array(std), np.array(0.0), np.array(width)) == bits


@given(st.floats(-50, 0), st.floats(0, 50), st.floats(0, 50), st.floats(0, 50))
def test_rule_clips_where_the_tails_are_a_tenth_of_the_range(p01, p99, below, above):
    low, high = p01 - below, p99 + above
    if high > low:
        expected = (p99 - p01) / (high - low) < 0.9
        actual = clips_at_tails(np.array(low), np.array(high), np.array(p01), np.array(p99))
        assert actual == expected or (p99 - p01) / (high - low) == pytest.approx(0.9)


def most(indices, rows):
    return max(int(indices[row]) for row in rows)


@given(SEEDS, st.floats(5, 45), st.floats(5, 45))
def test_target_is_met_by_the_worst_part_with_ties_and_blocks(seed, target, weight_target):
    own, model = noise(seed), layers(seed)
    reached = -10 * np.log10(own.static.max(axis=1))
    by_weight = -10 * np.log10(own.weights)
    if target > reached[LINEAR].max() or weight_target > by_weight[LINEAR].max():
        return
    chosen = by_target(own, model, target, weight_target)

    def fewest(sqnr, goal):
        return next((i for i, value in enumerate(sqnr) if value >= goal), 3)

    alone = [fewest(row, target) for row in reached]
    expected = [max(alone[:3])] * 3 + [alone[3], max(alone[:5]), alone[5]]
    assert chosen.activation.tolist() == expected
    weights = [fewest(by_weight[row], weight_target) if LINEAR[row] else 0 for row in range(6)]
    assert chosen.weight.tolist() == [max(weights[:3])] * 3 + [
        weights[3],
        max(weights[:4]),
        weights[5],
    ]
    for part in range(PARTS):
        alone = [fewest(row, target) for row in -10 * np.log10(own.by_part[:, part])]
        expected = [max(alone[:3])] * 3 + [alone[3], max(alone[:5]), alone[5]]
        assert chosen.by_part[:, part].tolist() == expected
        of_model = (model.operations[:, None] * own.by_part[:, part]).sum(axis=0)
        of_model = of_model / model.operations.sum()
        assert chosen.schedule[part] == fewest(-10 * np.log10(of_model), target)


def test_a_part_that_is_not_known_does_not_count():
    full, model = noise(3), layers(3, empty_part=True)
    static, by_part = full.static.copy(), full.by_part.copy()
    static[:, 1] = by_part[:, 1] = np.nan
    partial = QuantizationError(
        overall=full.overall, static=static, by_part=by_part, weights=full.weights
    )
    np.testing.assert_array_equal(partial.worst, static[:, [0, 2]].max(axis=1))
    chosen = by_target(partial, model, 20, 20)
    expected = fewest_bits(decibels(static[:, [0, 2]].max(axis=1)), 20)
    assert chosen.activation[[3, 5]].tolist() == expected[[3, 5]].tolist()
    of_model = partial.of_model(model.operations)
    assert np.isnan(of_model[1]).all()
    assert np.isfinite(of_model[[0, 2]]).all()
    budgeted = by_budget(partial, model, 4)
    assert budgeted.by_part.shape == (6, PARTS)


def test_target_that_nothing_reaches_names_the_best():
    own = noise(0)
    best = -10 * np.log10(own.worst[LINEAR].min())
    with pytest.raises(OptionError, match=rf"activation_target 99 dB .* is {best:.1f} dB"):
        by_target(own, layers(), 99, 10)
    best = -10 * np.log10(np.nanmin(own.weights))
    with pytest.raises(OptionError, match=rf"weight_target 98.5 dB .* is {best:.1f} dB"):
        by_target(own, layers(), 10, 98.5)
    with pytest.raises(OptionError, match="activation_target nan dB"):
        by_target(own, layers(), np.nan, 10)


def brute_force(error, size, tied, mean_bits):
    """Least total error of all choices with equal bits within a tie, and its tied choice."""
    groups, member = np.unique(tied, return_inverse=True)
    least = np.inf
    for choice in product(range(4), repeat=len(groups)):
        own = np.array(choice)[member]
        if (size * BITS[own]).sum() <= mean_bits * size.sum() * (1 + 1e-9):
            least = min(least, error[np.arange(len(own)), own].sum())
    return least


@given(SEEDS, st.floats(2, 8.5), st.booleans())
def test_budget_is_kept_and_no_other_choice_makes_less_noise(seed, mean_bits, equal):
    own, model = noise(seed, equal), layers(seed)
    chosen = by_budget(own, model, mean_bits)
    operations = model.operations[:, None]
    for index, error, size in (
        (chosen.activation, operations * own.overall, model.values.sum(axis=1)),
        (chosen.weight, operations * own.weights, model.weights),
    ):
        picked, size, error = index[LINEAR], size[LINEAR], error[LINEAR]
        assert (size * BITS[picked]).sum() <= mean_bits * size.sum() * (1 + 1e-9)
        total = error[np.arange(len(picked)), picked].sum()
        assert total <= brute_force(error, size, TIED[LINEAR], mean_bits) * (1 + 1e-9)
        assert len(set(index[:3])) == 1
        assert index[4] == most(index, range(4))


@given(SEEDS, st.floats(2, 8.5))
def test_budget_by_part_and_of_the_schedule_is_kept_and_optimal(seed, mean_bits):
    own, model = noise(seed), layers(seed)
    chosen = by_budget(own, model, mean_bits)
    for part in range(PARTS):
        assert len(set(chosen.by_part[:3, part])) == 1
        assert chosen.by_part[4, part] == most(chosen.by_part[:, part], range(4))
    values, picked = model.values[LINEAR], chosen.by_part[LINEAR]
    assert (values * BITS[picked]).sum() <= mean_bits * values.sum() * (1 + 1e-9)
    in_part = model.values[LINEAR].sum(axis=0)
    share = model.operations / model.operations.sum()
    error = in_part[:, None] * (share[:, None, None] * own.by_part).sum(axis=0)
    total = error[np.arange(PARTS), chosen.schedule].sum()
    assert (in_part * BITS[chosen.schedule]).sum() <= mean_bits * in_part.sum() * (1 + 1e-9)
    assert total <= brute_force(error, in_part, np.arange(PARTS), mean_bits) * (1 + 1e-9)
    if mean_bits >= 8:
        assert (chosen.by_part == 3).all()
        assert (chosen.activation == 3).all()
        assert (chosen.weight == 3).all()


def test_budget_by_part_is_optimal_on_a_small_case():
    """Two untied layers in two parts: every one of the 256 choices is tried."""
    generator = np.random.default_rng(5)
    by_part = -np.sort(-generator.random((2, 2, 4)), axis=-1)
    values = np.array([[3, 1], [2, 4]])
    model = Layers(
        linear=np.array([True, True]),
        tied=np.array([0, 1]),
        inside=np.zeros((2, 2), dtype=bool),
        operations=np.array([5.0, 2.0]),
        values=values,
        weights=np.array([1, 1]),
    )
    own = QuantizationError(by_part[:, 0], by_part, by_part, by_part[:, 1])
    share = model.operations[:, None] * values / values.sum(axis=1, keepdims=True)
    error = (share[..., None] * by_part).reshape(4, 4)
    for mean_bits in (2, 3.1, 4.5, 6, 7.9):
        index = by_budget(own, model, mean_bits).by_part.ravel()
        total = error[np.arange(4), index].sum()
        assert total <= brute_force(error, values.ravel(), np.arange(4), mean_bits) * (1 + 1e-9)


def test_budget_below_the_fewest_bits_is_refused():
    for mean_bits in (1.99, -3, np.nan):
        with pytest.raises(OptionError, match=f"mean_bits must be 2 or more.*got {mean_bits:g}"):
            by_budget(noise(), layers(), mean_bits)


def test_range_gives_weights_the_bits_of_activations_and_a_majority_for_the_schedule():
    bits = np.array([8, 8, 8, 4, 6, 6])
    part_bits = np.array([[8, 4, 6], [8, 4, 6], [8, 4, 6], [4, 8, 4], [6, 6, 6], [4, 8, 8]])
    model = layers(1)
    chosen = by_range(bits, part_bits, model)
    np.testing.assert_array_equal(BITS[chosen.activation], bits)
    np.testing.assert_array_equal(chosen.weight, chosen.activation)
    np.testing.assert_array_equal(BITS[chosen.by_part], part_bits)
    for part in range(PARTS):
        votes = {
            own: model.operations[LINEAR & (part_bits[:, part] == own)].sum() for own in CHOICES
        }
        assert votes[BITS[chosen.schedule[part]]] == max(votes.values())

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibzarr.advice.methods.base import CHOICES
from calibzarr.advice.methods.sqnr import by_target, fewest_bits, reasons_of_target
from calibzarr.errors import OptionError
from tests.support.layers import LINEAR, PHASES, layers, noise

NAMES = ["early", "mid", "late"]
SEEDS = st.integers(0, 2**32 - 1)


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


@given(SEEDS, st.floats(5, 45), st.floats(5, 45))
def test_target_is_met_by_the_worst_phase_with_ties_and_blocks(seed, target, weight_target):
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
    for phase in range(PHASES):
        alone = [fewest(row, target) for row in -10 * np.log10(own.by_phase[:, phase])]
        expected = [max(alone[:3])] * 3 + [alone[3], max(alone[:5]), alone[5]]
        assert chosen.by_phase[:, phase].tolist() == expected


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


@given(st.integers(0, 2**32 - 1))
def test_target_quotes_the_chosen_bits_those_below_and_the_worst_phase(seed):
    own, model = noise(seed), layers(seed)
    target, weight_target = 12.5, 10.0
    chosen = by_target(own, model, target, weight_target)
    texts = reasons_of_target(own, model, chosen, NAMES, target, weight_target)
    assert len(texts) == len(LINEAR)
    for row, text in enumerate(texts):
        index = chosen.activation[row]
        reached = -10 * np.log10(own.static[row].max(axis=0))
        expected = f"{CHOICES[index]} bits reach {reached[index]:.1f} dB"
        if index:
            expected += f", {CHOICES[index - 1]} bits {reached[index - 1]:.1f} dB"
        met = reached[index] >= target
        expected += ", of 12.5 dB wanted" if met else ", short of 12.5 dB"
        worst = NAMES[own.static[row, :, index].argmax()]
        assert text.startswith(f"{expected} in {worst}, the worst phase; ")
        if LINEAR[row]:
            weight = chosen.weight[row]
            sqnr = -10 * np.log10(own.weights[row, weight])
            assert f"weights: {CHOICES[weight]} bits reach {sqnr:.1f} dB" in text
        else:
            assert text.endswith("the most bits of it and the 4 linear layers that it speaks for")


def test_target_that_a_layer_misses_says_so():
    own, model = noise(2), layers(2)
    best = (-10 * np.log10(own.worst[LINEAR].min())) - 1e-6
    chosen = by_target(own, model, best, 5)
    texts = reasons_of_target(own, model, chosen, NAMES, best, 5)
    short = ["short of" in text.split(";")[0] for text in texts]
    assert short == (-10 * np.log10(own.worst[:, 3]) < best).tolist()

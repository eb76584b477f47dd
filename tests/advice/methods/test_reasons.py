import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibzarr.advice.methods import reasons
from calibzarr.advice.methods.base import CHOICES, by_budget, by_target
from tests.support.layers import LINEAR, PARTS, layers, noise

PHASES = ["early", "mid", "late"]


def numbers(text):
    return [float(own) for own in re.findall(r"-?\d+(?:\.\d+)?", text)]


@given(st.integers(0, 2**32 - 1))
def test_target_quotes_the_chosen_bits_those_below_and_the_worst_phase(seed):
    own, model = noise(seed), layers(seed)
    target, weight_target = 12.5, 10.0
    chosen = by_target(own, model, target, weight_target)
    texts = reasons.of_target(own, model, chosen, PHASES, target, weight_target)
    assert len(texts) == len(LINEAR)
    for row, text in enumerate(texts):
        index = chosen.activation[row]
        reached = -10 * np.log10(own.static[row].max(axis=0))
        expected = f"{CHOICES[index]} bits reach {reached[index]:.1f} dB"
        if index:
            expected += f", {CHOICES[index - 1]} bits {reached[index - 1]:.1f} dB"
        met = reached[index] >= target
        expected += ", of 12.5 dB wanted" if met else ", short of 12.5 dB"
        worst = PHASES[own.static[row, :, index].argmax()]
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
    texts = reasons.of_target(own, model, chosen, PHASES, best, 5)
    short = ["short of" in text.split(";")[0] for text in texts]
    assert short == (-10 * np.log10(own.worst[:, 3]) < best).tolist()


@given(st.integers(0, 2**32 - 1), st.floats(2, 8))
def test_budget_quotes_shares_of_the_noise(seed, mean_bits):
    own, model = noise(seed), layers(seed)
    chosen = by_budget(own, model, mean_bits)
    texts = reasons.of_budget(own, model, chosen, mean_bits)
    shares = {"activations": 0.0, "weights": 0.0}
    for row, text in enumerate(texts):
        assert text.startswith(f"a mean of {mean_bits:g} bits; ")
        if not LINEAR[row]:
            assert text.endswith("linear layers that it speaks for")
            continue
        for part, index in (("activations", chosen.activation), ("weights", chosen.weight)):
            quoted = re.search(rf"{part}: (\d) bits make ([\d.]+)% of the noise, (.*?) would", text)
            assert int(quoted[1]) == CHOICES[index[row]]
            shares[part] += float(quoted[2])
            beside = numbers(quoted[3].replace("%", ""))[::2]
            near = [CHOICES[i] for i in (index[row] - 1, index[row] + 1) if 0 <= i < 4]
            assert beside == near
    for total in shares.values():  # each is rounded to a hundredth of a percent
        assert total == pytest.approx(100, abs=0.05)


def test_budget_of_a_layer_is_its_noise_over_the_models():
    own, model = noise(4), layers(4)
    chosen = by_budget(own, model, 4)
    each = model.operations * own.overall[np.arange(6), chosen.activation]
    share = each / each[LINEAR].sum()
    for row, text in enumerate(reasons.of_budget(own, model, chosen, 4)):
        if LINEAR[row]:
            assert f"bits make {share[row]:.2%} of the noise" in text
    assert own.by_part.shape[1] == PARTS


@pytest.mark.parametrize(
    ("low", "high", "std", "p01", "p99", "parts"),
    [
        (-10, 10, 1, -6, 6, ["p99 - p01 is 12, over 10", ": 8 bits", "0.60 of the range"]),
        (-4, 4, 1, -3.9, 3.9, ["p99 - p01 is 7.8, over 5", ": 6 bits"]),
        (-1, 1, 0.2, -0.95, 0.95, ["p99 - p01 is 1.9, not over 5", ": 4 bits"]),
        (-1, 1, 0.99, -0.95, 0.95, ["standard deviation 0.99 is over 0.5 of that", ": 6 bits"]),
    ],
)
def test_range_quotes_what_the_old_rule_looked_at(low, high, std, p01, p99, parts):
    (text,) = reasons.of_range(*(np.array([float(own)]) for own in (low, high, std, p01, p99)))
    for part in parts:
        assert part in text
    assert ("clipped there" in text) == ((p99 - p01) / (high - low) < 0.9)
    assert ("standard deviation" in text) == (std / (p99 - p01) > 0.5)

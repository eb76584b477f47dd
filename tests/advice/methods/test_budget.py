import re
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibzarr.advice.methods.base import CHOICES, Layers, QuantizationError
from calibzarr.advice.methods.budget import by_budget, reasons_of_budget
from calibzarr.errors import OptionError
from tests.support.layers import LINEAR, PHASES, TIED, layers, noise

BITS = np.array(CHOICES)
SEEDS = st.integers(0, 2**32 - 1)


def most(indices, rows):
    return max(int(indices[row]) for row in rows)


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
def test_budget_by_phase_is_kept(seed, mean_bits):
    own, model = noise(seed), layers(seed)
    chosen = by_budget(own, model, mean_bits)
    for phase in range(PHASES):
        assert len(set(chosen.by_phase[:3, phase])) == 1
        assert chosen.by_phase[4, phase] == most(chosen.by_phase[:, phase], range(4))
    values, picked = model.values[LINEAR], chosen.by_phase[LINEAR]
    assert (values * BITS[picked]).sum() <= mean_bits * values.sum() * (1 + 1e-9)
    if mean_bits >= 8:
        assert (chosen.by_phase == 3).all()
        assert (chosen.activation == 3).all()
        assert (chosen.weight == 3).all()


def test_budget_by_phase_is_optimal_on_a_small_case():
    """Two untied layers in two phases: every one of the 256 choices is tried."""
    generator = np.random.default_rng(5)
    by_phase = -np.sort(-generator.random((2, 2, 4)), axis=-1)
    values = np.array([[3, 1], [2, 4]])
    model = Layers(
        linear=np.array([True, True]),
        tied=np.array([0, 1]),
        inside=np.zeros((2, 2), dtype=bool),
        operations=np.array([5.0, 2.0]),
        values=values,
        weights=np.array([1, 1]),
    )
    own = QuantizationError(by_phase[:, 0], by_phase, by_phase, by_phase[:, 1])
    share = model.operations[:, None] * values / values.sum(axis=1, keepdims=True)
    error = (share[..., None] * by_phase).reshape(4, 4)
    for mean_bits in (2, 3.1, 4.5, 6, 7.9):
        index = by_budget(own, model, mean_bits).by_phase.ravel()
        total = error[np.arange(4), index].sum()
        assert total <= brute_force(error, values.ravel(), np.arange(4), mean_bits) * (1 + 1e-9)


def test_budget_below_the_fewest_bits_is_refused():
    for mean_bits in (1.99, -3, np.nan):
        with pytest.raises(OptionError, match=f"mean_bits must be 2 or more.*got {mean_bits:g}"):
            by_budget(noise(), layers(), mean_bits)


def numbers(text):
    return [float(own) for own in re.findall(r"-?\d+(?:\.\d+)?", text)]


@given(st.integers(0, 2**32 - 1), st.floats(2, 8))
def test_budget_quotes_shares_of_the_noise(seed, mean_bits):
    own, model = noise(seed), layers(seed)
    chosen = by_budget(own, model, mean_bits)
    texts = reasons_of_budget(own, model, chosen, mean_bits)
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
    for row, text in enumerate(reasons_of_budget(own, model, chosen, 4)):
        if LINEAR[row]:
            assert f"bits make {share[row]:.2%} of the noise" in text
    assert own.by_phase.shape[1] == PHASES

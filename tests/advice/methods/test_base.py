import numpy as np

from calibzarr.advice.methods.base import QuantizationError, decibels
from calibzarr.advice.methods.budget import by_budget
from calibzarr.advice.methods.sqnr import by_target, fewest_bits
from tests.support.layers import layers, noise


def test_decibels():
    np.testing.assert_allclose(decibels(np.array([1.0, 0.1, 0.001])), [0, 10, 30], atol=1e-12)
    assert decibels(np.array(0.0)) == np.inf
    assert np.isnan(decibels(np.array(np.nan)))


def test_a_phase_that_is_not_known_does_not_count():
    full, model = noise(3), layers(3, empty_phase=True)
    static, by_phase = full.static.copy(), full.by_phase.copy()
    static[:, 1] = by_phase[:, 1] = np.nan
    partial = QuantizationError(
        overall=full.overall, static=static, by_phase=by_phase, weights=full.weights
    )
    np.testing.assert_array_equal(partial.worst, static[:, [0, 2]].max(axis=1))
    chosen = by_target(partial, model, 20, 20)
    expected = fewest_bits(decibels(static[:, [0, 2]].max(axis=1)), 20)
    assert chosen.activation[[3, 5]].tolist() == expected[[3, 5]].tolist()
    budgeted = by_budget(partial, model, 4)
    assert budgeted.by_phase.shape == (6, 3)

import numpy as np
import pytest

from calibzarr.quantization.gptq import DAMPING, gptq, weighted_error
from calibzarr.quantization.quantizers import levels_by_group, on_levels

BITS, GROUP = 3, 32


def case(seed=0, outputs=24, features=96, samples=300):
    """A weight, its levels by rounding, and inputs that are correlated and of unequal size."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((outputs, features)).astype(np.float16)
    mixed = rng.standard_normal((samples, features)) @ rng.standard_normal((features, features))
    inputs = mixed * rng.lognormal(size=features)
    return weight, levels_by_group(weight, GROUP, BITS), inputs


def naive(weight, scale, bias, hessian):
    """Optimal brain quantization, a feature at a time with the inverse of what is left of H."""
    weight = weight.astype(np.float64).copy()
    scale, bias = (np.repeat(part.astype(np.float64), GROUP, axis=1) for part in (scale, bias))
    damped = hessian + DAMPING * np.diagonal(hessian).mean() * np.eye(len(hessian))
    left = list(np.argsort(-np.diagonal(hessian), kind="stable"))
    levels = np.zeros(weight.shape)
    while left:
        first, inverse = left[0], np.linalg.inv(damped[np.ix_(left, left)])
        nearest = np.rint((weight[:, first] - bias[:, first]) / scale[:, first])
        levels[:, first] = np.clip(nearest, 0, 2**BITS - 1)
        error = weight[:, first] - scale[:, first] * levels[:, first] - bias[:, first]
        weight[:, left] -= np.outer(error, inverse[0] / inverse[0, 0])
        left = left[1:]
    return levels


def test_levels_are_those_of_the_definition():
    weight, (level, scale, bias), inputs = case()
    hessian = inputs.T @ inputs
    found = gptq(weight, level, scale, bias, BITS, hessian)
    assert found.dtype == np.uint8
    # float32 here, float64 there: a weight in the middle between two levels may go either way,
    # and with it what follows in its row.
    same = (found == naive(weight, scale, bias, hessian)).all(axis=1)
    assert same.mean() > 0.9


def test_more_features_than_a_block_make_less_error_than_rounding():
    weight, (level, scale, bias), inputs = case(features=320, samples=2000)
    held_out, inputs = inputs[1000:], inputs[:1000]
    hessian = inputs.T @ inputs
    found = gptq(weight, level, scale, bias, BITS, hessian)
    before, after = (
        np.square(held_out @ (on_levels(values, scale, bias) - weight).T).sum()
        for values in (level, found)
    )
    assert after < 0.7 * before
    error = inputs @ (on_levels(found, scale, bias) - weight).T
    expected = np.square(error).sum()
    assert weighted_error(weight, found, scale, bias, hessian) == pytest.approx(expected, rel=1e-4)


def test_dead_features_keep_their_levels_and_change_no_other():
    weight, (level, scale, bias), inputs = case()
    dead = np.arange(96) % 3 == 0
    inputs[:, dead] = 0
    found = gptq(weight, level, scale, bias, BITS, inputs.T @ inputs)
    np.testing.assert_array_equal(found[:, dead], level[:, dead])
    assert (found[:, ~dead] != level[:, ~dead]).any()
    other = weight.copy()
    other[:, dead] = 0
    same = gptq(other, level, scale, bias, BITS, inputs.T @ inputs)
    np.testing.assert_array_equal(found[:, ~dead], same[:, ~dead])
    nothing = gptq(weight, level, scale, bias, BITS, np.zeros((96, 96)))
    np.testing.assert_array_equal(nothing, level)


def test_the_damping_grows_until_the_hessian_can_be_decomposed():
    """Not damped, one input of rank 1 has no inverse; rounding errors may make it indefinite."""
    weight, (level, scale, bias), inputs = case()
    hessian = np.outer(inputs[0], inputs[0]) - 1e-3 * np.diag(np.arange(96) % 2)
    np.fill_diagonal(hessian, np.maximum(hessian.diagonal(), 1e-6))
    found = gptq(weight, level, scale, bias, BITS, hessian, damping=0)
    assert found.max() < 2**BITS


def test_equal_inputs_without_correlation_leave_rounding():
    weight, (level, scale, bias), _ = case()
    found = gptq(weight, level, scale, bias, BITS, np.eye(96))
    np.testing.assert_array_equal(found, level)


def test_a_hessian_that_is_not_finite_is_refused():
    weight, (level, scale, bias), _ = case()
    with pytest.raises(ValueError, match="not finite"):
        gptq(weight, level, scale, bias, BITS, np.full((96, 96), np.nan))

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibzarr.quantization.levels import BITS, Levels, levels, sqnr_db

NUMBERS = st.sampled_from(BITS)
FINITE = st.floats(-10_000, 10_000, width=32, allow_subnormal=False)


@given(FINITE, FINITE, NUMBERS, st.booleans(), hnp.arrays(np.float64, 20, elements=FINITE))
def test_levels_are_as_many_as_bits_allow_hold_0_and_the_nearest_is_taken(
    clip_min, clip_max, bits, symmetric, values
):
    own = levels(np.array(clip_min), np.array(clip_max), np.array(bits), symmetric=symmetric)
    assert own.highest - own.lowest + 1 == 2**bits - symmetric
    assert own.lowest <= 0 <= own.highest
    assert own.lowest == np.rint(own.lowest)
    assert own.quantize(np.zeros(1)) == 0
    once = own.quantize(values)
    np.testing.assert_array_equal(own.quantize(once), once)
    every = own.step_size * np.arange(own.lowest, own.highest + 1)
    nearest = np.abs(values[:, None] - every).min(axis=1)
    np.testing.assert_allclose(np.abs(values - once), nearest, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bits", BITS)
def test_levels_span_the_range(bits):
    affine = levels(np.array(-1.0), np.array(3.0), np.array(bits))
    np.testing.assert_allclose(affine.step_size * (2**bits - 1), 4)
    assert np.abs(affine.lowest * affine.step_size + 1) <= affine.step_size / 2 * (1 + 1e-6)
    symmetric = levels(np.array(-1.0), np.array(3.0), np.array(bits), symmetric=True)
    np.testing.assert_allclose(symmetric.highest * symmetric.step_size, 3)
    assert symmetric.lowest == -symmetric.highest
    positive = levels(np.array(0.5), np.array(3.0), np.array(bits))
    assert positive.lowest == 0
    np.testing.assert_allclose(positive.step_size * positive.highest, 3)


def test_a_tie_of_zero_points_gives_more_levels_below_zero_at_any_scale():
    for scale in (1e-3, 0.1, 0.7, 1, 3, 1e5):  # 15 steps, 2.5 of them below zero
        own = levels(np.array(-2.5 * scale), np.array(12.5 * scale), np.array(4))
        assert (own.lowest, own.highest) == (-3, 12)


def test_empty_range_leaves_0_alone():
    own = levels(np.zeros(1), np.zeros(1), np.array(8))
    assert isinstance(own, Levels)
    np.testing.assert_allclose(own.quantize(np.array([-3.0, 0.0, 2.0])), 0, atol=1e-30)


def test_sqnr_is_the_ratio_in_decibels():
    np.testing.assert_allclose(sqnr_db(np.array([2.0, 1.0]), np.array([0.02, 2.0])), [20, -3.0103])
    assert np.isinf(sqnr_db(np.array(1.0), np.array(0.0)))
    assert np.isnan(sqnr_db(np.array(np.nan), np.array(np.nan)))

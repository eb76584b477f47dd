from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibzarr.errors import OptionError
from calibzarr.quantization.step_groups import contiguous_groups, gram


def spread(shifts, first):
    """Sum of squared distances to the group's mean, from the shifts, shape (step, feature)."""
    groups = np.split(shifts, first[1:])
    return sum(((group - group.mean(axis=0)) ** 2).sum() for group in groups)


moderate = st.floats(-100, 100, width=16)
shifts_of_few_steps = st.tuples(st.integers(1, 8), st.integers(1, 3)).flatmap(
    lambda shape: hnp.arrays(np.float64, shape, elements=moderate)
)


@given(shifts_of_few_steps, st.data())
def test_no_other_division_has_less_spread(shifts, data):
    steps = len(shifts)
    num_groups = data.draw(st.integers(1, steps))
    products = shifts @ shifts.T
    first = contiguous_groups(products, num_groups)
    assert len(first) == num_groups
    assert first[0] == 0
    assert (np.diff(np.append(first, steps)) > 0).all()
    others = combinations(range(1, steps), num_groups - 1)
    least = min(spread(shifts, [0, *other]) for other in others)
    rounding = 1e-9 * max(1.0, products.trace())
    assert spread(shifts, first) == pytest.approx(least, abs=rounding)


def test_steps_that_jump_are_divided_where_they_jump():
    generator = np.random.default_rng(0)
    levels = np.repeat([0.0, 3.0, 1.0, 7.0], [11, 5, 25, 10])
    shifts = levels[:, None] + 0.1 * generator.standard_normal((51, 40))
    np.testing.assert_array_equal(contiguous_groups(shifts @ shifts.T, 4), [0, 11, 16, 41])


def test_each_step_alone_and_all_together():
    shifts = np.random.default_rng(1).standard_normal((17, 5))
    products = shifts @ shifts.T
    np.testing.assert_array_equal(contiguous_groups(products, 17), np.arange(17))
    np.testing.assert_array_equal(contiguous_groups(products, 1), [0])


@pytest.mark.parametrize("num_groups", [0, 6])
def test_groups_beyond_the_steps_are_refused_by_both_numbers(num_groups):
    with pytest.raises(OptionError, match=f"the number of steps, 5, got {num_groups}"):
        contiguous_groups(np.eye(5), num_groups)


@pytest.mark.parametrize(
    "products", [np.ones((3, 4)), np.ones(3), np.full((2, 2), np.nan)], ids=["wide", "flat", "nan"]
)
def test_products_that_are_none_are_refused(products):
    with pytest.raises(ValueError, match="products must"):
        contiguous_groups(products, 1)


def ranges(seed=0):
    """Low and high of layers of widths 5 and 3 and of different magnitudes, at 9 steps."""
    generator = np.random.default_rng(seed)
    low = generator.standard_normal((2, 9, 5)) * np.array([1.0, 300.0])[:, None, None]
    high = low + generator.random((2, 9, 5)) * np.array([1.0, 300.0])[:, None, None]
    low[1, :, 3:] = high[1, :, 3:] = np.nan
    return low.astype(np.float32), high.astype(np.float32)


def squared_distances(products):
    squares = products.diagonal()
    return squares[:, None] + squares - 2 * products


def test_distances_between_steps_are_those_of_normalised_shifts():
    low, high = ranges()
    expected = np.zeros((9, 9))
    for layer, width in enumerate([5, 3]):
        layer_low = low[layer, :, :width].astype(np.float64)
        layer_high = high[layer, :, :width].astype(np.float64)
        shift = (layer_low + layer_high) / 2
        shift /= np.sqrt(np.mean((layer_high - layer_low) ** 2))
        expected += ((shift[:, None] - shift) ** 2).sum(axis=-1)
    products = gram(low, high)
    assert products.dtype == np.float64
    np.testing.assert_allclose(squared_distances(products), expected, rtol=1e-9, atol=1e-9)


def test_the_scale_of_a_layer_decides_nothing():
    low, high = ranges()
    factor = np.array([64.0, 0.125], dtype=np.float32)[:, None, None]
    np.testing.assert_allclose(gram(low * factor, high * factor), gram(low, high), rtol=1e-9)


def test_layers_are_divided_by_the_scale_given():
    low, high = ranges()
    one = gram(low[:1], high[:1], scale=np.array([1.0]))
    np.testing.assert_allclose(gram(low[:1], high[:1], scale=np.array([4.0])), one / 16)
    together = gram(low, high, scale=np.array([1.0, 0.0]))
    np.testing.assert_allclose(together, one)


def test_many_layers_are_the_sum_of_each():
    generator = np.random.default_rng(2)
    low = generator.standard_normal((40, 51, 600)).astype(np.float32)  # several blocks
    high = low + generator.random((40, 51, 600)).astype(np.float32)
    each = sum(gram(low[i : i + 1], high[i : i + 1]) for i in range(40))
    np.testing.assert_allclose(gram(low, high), each, rtol=1e-9, atol=1e-9 * each.trace())


def test_small_changes_of_large_shifts_are_seen():
    step = np.arange(10)
    low = np.full((1, 10, 200), 5000.0, dtype=np.float32) + (step >= 4)[None, :, None] / 512
    products = gram(low.astype(np.float32), low.astype(np.float32) + 1)
    np.testing.assert_array_equal(contiguous_groups(products, 2), [0, 4])
    assert squared_distances(products)[0, 9] == pytest.approx(200 / 512**2)


def test_layers_without_a_range_and_features_without_values_count_for_nothing():
    low, high = ranges()
    constant = np.repeat(low[:1, :, :], 2, axis=0)
    with_constant = gram(np.concatenate([low, constant]), np.concatenate([high, constant]))
    np.testing.assert_allclose(with_constant, gram(low, high))
    low[0, 4, 2], high[0, 7, 1] = np.nan, np.inf
    kept = [0, 3, 4]
    np.testing.assert_allclose(
        gram(low[:1], high[:1]), gram(low[:1][:, :, kept], high[:1][:, :, kept])
    )
    assert not gram(np.full((1, 3, 2), np.nan), np.full((1, 3, 2), np.nan)).any()


def test_shapes_that_disagree_are_refused():
    low, high = ranges()
    with pytest.raises(ValueError, match=r"got \(2, 9, 5\) and \(1, 9, 5\)"):
        gram(low, high[:1])
    with pytest.raises(ValueError, match=r"scale must have shape \(2,\), got \(3,\)"):
        gram(low, high, scale=np.ones(3))

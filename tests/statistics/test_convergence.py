from dataclasses import fields
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibzarr.errors import OptionError
from calibzarr.statistics.convergence import (
    enough,
    expected_extreme,
    of_images,
    range_curve,
)

FEW = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 7)),
    elements=st.one_of(st.just(np.nan), st.floats(-1000, 1000, width=32)),
)


def statistics(num_images, layers=2, steps=3, seed=0, missing=0.0):
    """Statistics of images whose raw values are made here: low, high, mean, std of all."""
    generator = np.random.default_rng(seed)
    spread = generator.lognormal(0, 0.7, (layers, steps, num_images, 1))
    raw = generator.standard_t(4, (layers, steps, num_images, 50)) * spread
    raw[generator.random(raw.shape[:3]) < missing] = np.nan
    low, high, mean = raw.min(axis=-1), raw.max(axis=-1), raw.mean(axis=-1)
    std = np.ones((layers, steps))
    for place in np.ndindex(layers, steps):
        std[place] = raw[place][~np.isnan(raw[place])].std() if not_all_nan(raw[place]) else np.nan
    return low.astype(np.float32), high.astype(np.float32), mean.astype(np.float32), std


def not_all_nan(values):
    return not np.isnan(values).all()


def mean_over_subsets(values, size, statistic):
    return np.mean([statistic(list(subset)) for subset in combinations(values, size)])


@given(FEW)
def test_expected_extreme_is_the_mean_over_all_subsets(values):
    sizes = np.arange(1, 9)
    actual = expected_extreme(values, sizes)
    assert actual.shape == (len(values), 8)
    for row, result in zip(values, actual, strict=True):
        kept = row[~np.isnan(row)].astype(float)
        for size, own in zip(sizes, result, strict=True):
            if size <= len(kept):
                expected = mean_over_subsets(kept, size, max)
                np.testing.assert_allclose(own, expected, rtol=1e-9, atol=1e-9)
            else:
                assert np.isnan(own)


@pytest.mark.parametrize("count", [2, 10, 1000, 5000])
def test_expected_maximum_of_the_first_integers_is_known(count):
    # The mean of the maximum of m among 1..n is m (n + 1) / (m + 1).
    sizes = np.unique([1, 2, count // 3 or 1, count // 2, count - 1, count])
    values = np.random.default_rng(0).permutation(count) + 1.0
    np.testing.assert_allclose(
        expected_extreme(values, sizes), sizes * (count + 1) / (sizes + 1), rtol=1e-11
    )


def test_expected_extreme_keeps_leading_dimensions():
    values = np.random.default_rng(0).random((2, 3, 6))
    assert expected_extreme(values, 2).shape == (2, 3)
    np.testing.assert_allclose(
        expected_extreme(values, [2, 6])[..., 0], expected_extreme(values, 2), rtol=1e-12
    )
    np.testing.assert_array_equal(expected_extreme(values, 6), values.max(axis=-1))
    assert expected_extreme(values[0, 0], 6).shape == ()


@pytest.mark.parametrize("size", [0, -1, 1.5, [1, 0]])
def test_sizes_that_are_no_number_of_images_are_refused(size):
    with pytest.raises(OptionError, match="whole number of at least 1"):
        expected_extreme(np.ones(3), size)


@pytest.mark.parametrize("num_images", [2, 3, 6, 7])
def test_growth_is_that_from_all_halves(num_images):
    low, high, mean, std = statistics(num_images)
    result = of_images(low, high, mean, std)
    sizes = {num_images // 2, (num_images + 1) // 2}
    for place in np.ndindex(2, 3):
        pairs = list(zip(low[place].astype(float), high[place].astype(float), strict=True))
        half = np.mean([mean_over_subsets(pairs, size, range_of) for size in sizes])
        np.testing.assert_allclose(result.growth[place], range_of(pairs) / half - 1, rtol=1e-9)


def range_of(pairs):
    lows, highs = zip(*pairs, strict=True)
    return max(highs) - min(lows)


def test_range_and_error_of_the_mean_are_those_of_a_loop():
    low, high, mean, std = statistics(12, missing=0.3)
    result = of_images(low, high, mean, std)
    for place in np.ndindex(2, 3):
        kept = ~np.isnan(low[place])
        assert result.images[place] == kept.sum() < 12
        assert result.range[place] == high[place][kept].max().astype(float) - low[place][kept].min()
        means = mean[place][kept].astype(float)
        error = means.std(ddof=1) / np.sqrt(len(means)) / std[place]
        np.testing.assert_allclose(result.mean_error[place], error, rtol=1e-9)


def test_images_that_were_not_collected_change_nothing():
    low, high, mean, std = statistics(9)
    expected = of_images(low, high, mean, std)
    wider = [np.insert(part, [0, 4, 9], np.nan, axis=-1) for part in (low, high, mean)]
    assert_equal(of_images(*wider, std), expected)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_the_order_of_images_does_not_matter(seed, num_images):
    low, high, mean, std = statistics(num_images, seed=seed, missing=0.2)
    order = np.random.default_rng(seed).permutation(num_images)
    shuffled = of_images(low[..., order], high[..., order], mean[..., order], std)
    expected = of_images(low, high, mean, std)
    assert_equal(shuffled, expected, rtol=1e-9)
    known = expected.images >= 2
    np.testing.assert_array_equal(np.isfinite(expected.growth), known)


def assert_equal(actual, expected, rtol=1e-12):
    for field in fields(expected):
        pair = getattr(actual, field.name), getattr(expected, field.name)
        np.testing.assert_allclose(*pair, rtol=rtol, err_msg=field.name)


def test_of_one_image_nothing_is_known_but_its_range():
    low, high, mean, std = statistics(1)
    result = of_images(low, high, mean, std)
    np.testing.assert_array_equal(result.range, (high.astype(float) - low)[..., 0])
    for name in ("growth", "mean_error"):
        assert np.isnan(getattr(result, name)).all(), name
    assert not enough(result.growth).any()


def test_two_images_by_hand():
    low = np.array([[[-1, -3]]], np.float32)
    high = np.array([[[4, 2]]], np.float32)
    result = of_images(low, high, np.array([[[1, 2]]], np.float32), np.array([[2.0]]))
    # Ranges of 5 each, 7 together.
    expected = {"range": 7, "growth": 7 / 5 - 1}
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(result, name), [[value]], err_msg=name)
    np.testing.assert_allclose(result.mean_error, [[0.5 / 2]])


def test_where_nothing_was_collected_nothing_is_said():
    nothing = np.full((2, 3, 4), np.nan, np.float32)
    result = of_images(nothing, nothing, nothing, nothing[..., 0])
    assert (result.images == 0).all()
    for field in fields(result)[1:]:
        assert np.isnan(getattr(result, field.name)).all(), field.name
    assert not enough(result.growth).any()
    assert np.isnan(range_curve(nothing, nothing, [1, 2])).all()


def test_constant_values_need_no_more_images():
    constant = np.full((1, 2, 5), 0.3, np.float32)
    result = of_images(constant, constant, constant, np.zeros((1, 2)))
    np.testing.assert_array_equal(result.growth, [[0, 0]])
    np.testing.assert_array_equal(result.mean_error, [[0, 0]])
    np.testing.assert_array_equal(range_curve(constant, constant, 2), [[1, 1]])
    assert enough(result.growth).all()


def test_enough_images_are_told_from_too_few():
    generator = np.random.default_rng(0)
    bounded = generator.uniform(9, 10, (1, 4, 100))
    heavy = generator.pareto(1, (1, 4, 100))
    high = np.concatenate([bounded, heavy, bounded])
    high[2, 1] = heavy[0, 1]  # one step is enough to spoil a layer
    growth = of_images(-high, high, high, np.ones((3, 4))).growth
    np.testing.assert_array_equal(enough(growth), [True, False, False])
    assert enough(growth, tolerance=growth.max()).all()
    assert not enough(growth, tolerance=growth.min() / 2).any()


def test_a_step_that_was_not_collected_does_not_decide():
    np.testing.assert_array_equal(
        enough(np.array([[np.nan, 0.01], [np.nan, 0.2], [np.nan, np.nan]])), [True, False, False]
    )


@pytest.mark.parametrize("tolerance", [0, -0.1, np.nan, np.inf])
def test_tolerances_that_mean_nothing_are_refused(tolerance):
    with pytest.raises(OptionError, match=f"tolerance must be .*, got {tolerance}"):
        enough(np.zeros((1, 1)), tolerance)


def test_curve_is_the_mean_over_all_subsets():
    low, high, _, _ = statistics(7, missing=0.2, seed=5)
    curve = range_curve(low, high, np.arange(1, 9))
    assert curve.shape == (2, 3, 8)
    for place in np.ndindex(2, 3):
        kept = ~np.isnan(low[place])
        pairs = list(
            zip(low[place][kept].astype(float), high[place][kept].astype(float), strict=True)
        )
        whole = range_of(pairs)
        for size in range(1, len(pairs) + 1):
            expected = mean_over_subsets(pairs, size, range_of) / whole
            np.testing.assert_allclose(curve[place][size - 1], expected, rtol=1e-9)
        assert np.isnan(curve[place][len(pairs) :]).all()
        assert (np.diff(curve[place][: len(pairs)]) >= 0).all()
        assert curve[place][len(pairs) - 1] == 1


def test_curve_for_one_size_has_no_axis_for_it():
    low, high, _, _ = statistics(6)
    np.testing.assert_allclose(
        range_curve(low, high, 3), range_curve(low, high, [3])[..., 0], rtol=1e-12
    )


def test_shapes_that_disagree_are_refused():
    low, high, mean, std = statistics(4)
    with pytest.raises(ValueError, match=r"same shape, got \(2, 3, 4\) and \(2, 3, 3\)"):
        range_curve(low, high[..., :3], 2)
    with pytest.raises(ValueError, match=r"deviations of shape \(2,\)"):
        of_images(low, high, mean, std[:, 0])

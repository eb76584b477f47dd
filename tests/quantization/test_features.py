import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibzarr.errors import OptionError
from calibzarr.quantization.features import (
    asymmetry_gain,
    feature_spread,
    outliers,
    shift,
    smoothing_scales,
)

SEEDS = st.integers(0, 2**32 - 1)
WIDTHS = (7, 12, 4, 12)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def raw_activations(seed=0):
    """By layer: shape (step, image, token, feature), of features that differ."""
    generator = np.random.default_rng(seed)
    for width in WIDTHS:
        normal = generator.standard_normal((5, 3, 20, width)).astype(np.float32)
        own = generator.lognormal(0, 1, width) * generator.choice([-1, 1], width)
        yield gelu(normal * generator.uniform(0.2, 4, width)) * own


def padded(rows):
    width = max(WIDTHS)
    return np.stack(
        [
            np.pad(
                row,
                [(0, 0)] * (row.ndim - 1) + [(0, width - row.shape[-1])],
                constant_values=np.nan,
            )
            for row in rows
        ]
    ).astype(np.float32)


def extremes(activations, uncollected=2):
    low = padded([layer.min(axis=(1, 2)) for layer in activations])
    high = padded([layer.max(axis=(1, 2)) for layer in activations])
    low[:, uncollected] = high[:, uncollected] = np.nan
    return low, high


def without_step(layer, uncollected=2):
    return np.delete(layer, uncollected, axis=0).astype(np.float64)


def of_layer(row, width):
    """Values within the width; what is beyond is NaN."""
    assert np.isnan(row[width:]).all()
    return row[:width]


def mean_extremes(activations, uncollected=2):
    mean_low = padded([layer.min(axis=2).mean(axis=1) for layer in activations])
    mean_high = padded([layer.max(axis=2).mean(axis=1) for layer in activations])
    mean_low[:, uncollected] = mean_high[:, uncollected] = np.nan
    return mean_low, mean_high


def test_shift_is_the_mean_of_every_middle_of_image_and_step():
    activations = list(raw_activations())
    actual = shift(*mean_extremes(activations))
    assert actual.dtype == np.float32
    for row, layer in zip(actual, activations, strict=True):
        kept = without_step(layer)
        middles = (kept.min(axis=2) + kept.max(axis=2)) / 2  # (step, image, feature)
        np.testing.assert_allclose(
            of_layer(row, layer.shape[-1]), middles.mean(axis=(0, 1)), rtol=1e-5
        )


@given(SEEDS)
def test_shift_does_not_depend_on_the_order_of_steps(seed):
    low, high = mean_extremes(list(raw_activations(seed)))
    order = np.random.default_rng(seed).permutation(low.shape[1])
    np.testing.assert_allclose(shift(low[:, order], high[:, order]), shift(low, high), rtol=1e-6)


def test_a_constant_added_to_a_feature_is_added_to_its_shift():
    low, high = mean_extremes(list(raw_activations()))
    np.testing.assert_allclose(shift(low + 3, high + 3), shift(low, high) + 3, rtol=1e-5)


@pytest.mark.parametrize("factor", [1, 1.7, 2.5, 10])
def test_outliers_and_multipliers_are_those_of_a_loop_over_raw_values(factor):
    activations = list(raw_activations())
    found = outliers(*extremes(activations), factor)
    assert found.outlier.dtype == bool
    assert np.issubdtype(found.multiplier.dtype, np.integer)
    for outlier, multiplier, layer in zip(
        found.outlier, found.multiplier, activations, strict=True
    ):
        kept, width = without_step(layer), layer.shape[-1]
        ranges = kept.max(axis=(0, 1, 2)) - kept.min(axis=(0, 1, 2))
        expected = ranges > factor * np.median(ranges)
        np.testing.assert_array_equal(outlier[:width], expected)
        normal = ranges[~expected].max()
        for feature in range(width):
            own = max(1, round(ranges[feature] / normal)) if expected[feature] else 1
            assert multiplier[feature] == own
        assert not outlier[width:].any()
        assert (multiplier[width:] == 1).all()


def test_one_wide_feature_is_found_with_its_multiplier():
    low, high = np.full((1, 2, 5), -1, np.float32), np.full((1, 2, 5), 1, np.float32)
    high[0, 1, 3], low[0, 0, 3] = 15, -5  # at two steps: a range of 20 against 2
    found = outliers(low, high)
    np.testing.assert_array_equal(found.outlier, [[False, False, False, True, False]])
    np.testing.assert_array_equal(found.multiplier, [[1, 1, 1, 10, 1]])


def test_features_that_never_change_do_not_make_others_outliers():
    low = np.zeros((2, 3, 6), np.float32)
    high = np.array([[0, 0, 0, 0, 1, 2], [0, 0, 0, 0, 0, 0]], np.float32)[:, None].repeat(3, axis=1)
    found = outliers(low, high)
    assert not found.outlier.any()
    assert (found.multiplier == 1).all()
    np.testing.assert_allclose(feature_spread(low, high), [2 / 1.5, np.nan])


def test_multipliers_of_extreme_ranges_stay_within_int32():
    high = np.array([[[1e-40, 1e-40, 1e-40, 3e38]]], np.float32)
    multiplier = outliers(np.zeros_like(high), high).multiplier
    np.testing.assert_array_equal(multiplier, [[1, 1, 1, np.iinfo(np.int32).max]])


@pytest.mark.parametrize("factor", [0.99, 0, -1, np.nan, np.inf])
def test_factors_that_could_leave_no_normal_feature_are_refused(factor):
    low, high = extremes(list(raw_activations()))
    with pytest.raises(OptionError, match=f"factor must be .* at least 1, got {factor}"):
        outliers(low, high, factor)


def weights(seed=0):
    """Raw weights by layer, shape (output, feature); and their greatest magnitudes, padded."""
    generator = np.random.default_rng(seed)
    raw = [
        generator.standard_normal((9, width)) * generator.lognormal(0, 1, width) for width in WIDTHS
    ]
    return raw, padded([np.abs(layer).max(axis=0) for layer in raw])


@pytest.mark.parametrize("alpha", [0, 0.3, 0.5, 1])
def test_smoothing_scales_are_those_of_a_loop_over_raw_values(alpha):
    activations, (raw, weight_max) = list(raw_activations()), weights()
    actual = smoothing_scales(*extremes(activations), weight_max, alpha, np.arange(4))
    assert actual.dtype == np.float32
    for row, layer, own in zip(actual, activations, raw, strict=True):
        a = np.abs(without_step(layer)).max(axis=(0, 1, 2))
        expected = a**alpha / np.abs(own).max(axis=0) ** (1 - alpha)
        np.testing.assert_allclose(of_layer(row, layer.shape[-1]), expected, rtol=1e-5)


def test_smoothing_halfway_leaves_activations_and_weights_equally_hard():
    activations, (raw, weight_max) = list(raw_activations()), weights()
    scales = smoothing_scales(*extremes(activations), weight_max, 0.5, np.arange(4))
    for row, layer, own in zip(scales, activations, raw, strict=True):
        s = row[: layer.shape[-1]]
        smooth = np.abs(without_step(layer) / s).max(axis=(0, 1, 2))
        np.testing.assert_allclose(smooth, np.abs(own * s).max(axis=0), rtol=1e-5)


def test_layers_that_share_an_input_get_one_scale_from_their_greatest_weights():
    low, high = extremes(list(raw_activations()))
    low[3], high[3] = low[1], high[1]  # layers 1 and 3 read the same array
    _, weight_max = weights()
    actual = smoothing_scales(low, high, weight_max, 0.4, np.array([5, -1, 0, -1]))
    np.testing.assert_array_equal(actual[1], actual[3])
    together = weight_max.copy()
    together[1] = together[3] = np.maximum(weight_max[1], weight_max[3])
    alone = smoothing_scales(low, high, together, 0.4, np.arange(4))
    np.testing.assert_array_equal(actual, alone)
    assert (actual[1] != smoothing_scales(low, high, weight_max, 0.4, np.arange(4))[1]).any()


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_dead_features_get_the_scale_1_and_features_that_are_not_there_none(alpha):
    high = np.array([[[2, 0, 2, 2, np.nan, np.nan]]], np.float32)
    weight_max = np.array([[0.5, 0.5, 0, np.nan, 0.5, np.nan]], np.float32)
    scales = smoothing_scales(-high, high, weight_max, alpha, np.zeros(1, int))
    np.testing.assert_allclose(scales, [[2**alpha / 0.5 ** (1 - alpha), 1, 1, 1, 1, np.nan]])


@pytest.mark.parametrize("alpha", [0, 1])
def test_smoothing_scales_are_finite_and_positive_for_extreme_magnitudes(alpha):
    high = np.array([[[1e-45, 3e38]]], np.float32)
    scales = smoothing_scales(-high, high, high[:, 0], alpha, np.zeros(1, int))
    assert (np.isfinite(scales) & (scales > 0)).all()


@pytest.mark.parametrize("alpha", [-0.1, 1.01, np.nan])
def test_alpha_outside_of_0_to_1_is_refused(alpha):
    low, high = extremes(list(raw_activations()))
    with pytest.raises(OptionError, match=rf"alpha must be in \[0, 1\], got {alpha}"):
        smoothing_scales(low, high, weights()[1], alpha, np.arange(4))


def test_spread_is_the_greatest_range_over_the_median_of_raw_values():
    activations = list(raw_activations())
    actual = feature_spread(*extremes(activations))
    for spread, layer in zip(actual, activations, strict=True):
        kept = without_step(layer)
        ranges = kept.max(axis=(0, 1, 2)) - kept.min(axis=(0, 1, 2))
        np.testing.assert_allclose(spread, ranges.max() / np.median(ranges), rtol=1e-5)
    assert (actual >= 1).all()


def test_gain_of_a_shift_is_measured_on_shifted_raw_values():
    activations = list(raw_activations())
    by_feature = shift(*mean_extremes(activations))
    actual = asymmetry_gain(*extremes(activations), by_feature)
    for gain, own, layer in zip(actual, by_feature, activations, strict=True):
        kept = without_step(layer)
        after = np.ptp(kept - own[: layer.shape[-1]])
        np.testing.assert_allclose(gain, np.ptp(kept) / after, rtol=1e-5)


def test_a_shift_that_centres_offset_features_gains_their_distance():
    centre = np.array([-30, 0, 10], np.float32)
    low, high = (centre - 1)[None, None], (centre + 1)[None, None]
    by_feature = shift(low, high)
    np.testing.assert_array_equal(by_feature, centre[None])
    np.testing.assert_allclose(asymmetry_gain(low, high, by_feature), [42 / 2])
    np.testing.assert_allclose(asymmetry_gain(low, high, np.zeros((1, 3))), [1])


def test_a_layer_that_was_never_collected_gets_no_advice():
    low, high = extremes(list(raw_activations()))
    low[1] = high[1] = np.nan
    _, weight_max = weights()
    weight_max[1] = np.nan
    found = outliers(low, high)
    by_feature = shift(low, high)
    assert not found.outlier[1].any()
    assert (found.multiplier[1] == 1).all()
    assert np.isnan(by_feature[1]).all()
    assert np.isnan(smoothing_scales(low, high, weight_max, 0.5, np.arange(4))[1]).all()
    for of_layers in (feature_spread(low, high), asymmetry_gain(low, high, by_feature)):
        np.testing.assert_array_equal(np.isnan(of_layers), [False, True, False, False])


def test_infinite_mean_extremes_count_as_missing():
    low, high = mean_extremes(list(raw_activations()))
    expected = shift(np.delete(low, 0, axis=1), np.delete(high, 0, axis=1))
    low[:, 0], high[:, 0] = np.inf, -np.inf  # an image of nothing but infinities
    np.testing.assert_array_equal(shift(low, high), expected)


@pytest.mark.parametrize("function", [shift, outliers, feature_spread])
def test_extremes_of_different_shapes_are_refused(function):
    with pytest.raises(ValueError, match=r"\(layer, step, feature\), got \(1, 2, 3\) and \(2, 3\)"):
        function(np.zeros((1, 2, 3)), np.zeros((2, 3)))


def test_shapes_that_do_not_go_with_the_extremes_are_refused():
    low = np.zeros((2, 1, 3))
    with pytest.raises(ValueError, match=r"a shift of shape \(2, 4\)"):
        asymmetry_gain(low, low, np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"greatest weights of shape \(2, 4\)"):
        smoothing_scales(low, low, np.zeros((2, 4)), 0.5, np.arange(2))
    with pytest.raises(ValueError, match=r"shared inputs of shape \(3,\)"):
        smoothing_scales(low, low, np.zeros((2, 3)), 0.5, np.arange(3))


def test_no_function_copies_a_whole_array():
    generator = np.random.default_rng(0)
    low = generator.standard_normal((8, 60, 2048), dtype=np.float32)
    high = low + 1
    weight_max, shared = np.ones((8, 2048), np.float32), np.arange(8)
    by_feature = shift(low, high)
    for run in (
        lambda: shift(low, high),
        lambda: outliers(low, high),
        lambda: smoothing_scales(low, high, weight_max, 0.5, shared),
        lambda: feature_spread(low, high),
        lambda: asymmetry_gain(low, high, by_feature),
    ):
        tracemalloc.start()
        try:
            run()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < low.nbytes / 2

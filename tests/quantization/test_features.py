import numpy as np
import pytest

from calibzarr.quantization.features import OUTLIER_FACTOR, feature_ranges, feature_spread, outliers

WIDTHS = (7, 12, 4, 12)


@pytest.fixture
def raw():
    """By layer: shape (step, value, feature), of features that differ; the last never changes."""
    random = np.random.default_rng(0)
    layers = [
        random.standard_normal((5, 60, width)) * random.lognormal(0, 1, width) for width in WIDTHS
    ]
    for layer in layers:
        layer[..., -1] = 0.5
    return [layer.astype(np.float32) for layer in layers]


@pytest.fixture
def ranges(raw):
    extremes = np.full((2, len(WIDTHS), 5, max(WIDTHS)), np.nan, dtype=np.float32)
    for row, layer in enumerate(raw):
        extremes[0, row, :, : layer.shape[-1]] = layer.min(axis=1)
        extremes[1, row, :, : layer.shape[-1]] = layer.max(axis=1)
    extremes[:, :, 2] = np.nan  # not collected
    return feature_ranges(*extremes)


def test_ranges_spread_and_outliers_are_those_of_the_values(raw, ranges):
    found = outliers(ranges)
    assert 0 < found.sum() < found.size / 4
    for row, layer in enumerate(raw):
        values = np.delete(layer, 2, axis=0).reshape(-1, layer.shape[-1]).astype(float)
        expected = np.ptp(values, axis=0)[:-1]
        width = len(expected)
        np.testing.assert_allclose(ranges[row, :width], expected)
        assert np.isnan(ranges[row, width:]).all()
        assert feature_spread(ranges)[row] == pytest.approx(expected.max() / np.median(expected))
        marked = expected > OUTLIER_FACTOR * np.median(expected)
        np.testing.assert_array_equal(found[row, :width], marked)
        assert not found[row, width:].any()


def test_without_a_feature_that_changes_nothing_is_known():
    constant = np.ones((2, 3, 4), dtype=np.float32)
    ranges = feature_ranges(constant, constant)
    assert np.isnan(ranges).all()
    assert np.isnan(feature_spread(ranges)).all()
    assert not outliers(ranges).any()


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5)])
def test_extremes_that_disagree_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        feature_ranges(np.zeros((2, 3, 4)), np.zeros(shape))

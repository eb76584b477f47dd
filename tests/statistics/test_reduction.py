import numpy as np
import pytest

from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.reduction import reduce

BINS = LogBins()


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 1, 4), (2, 2, 300, 100)])
def test_reduction_is_numpys_by_image(shape):
    values = np.random.default_rng(0).standard_t(3, shape).astype(np.float32)
    actual = reduce(values, BINS)
    by_image = values.astype(np.float64).swapaxes(0, 1).reshape(shape[1], -1)
    np.testing.assert_array_equal(actual.value_count, [by_image.shape[1]] * shape[1])
    np.testing.assert_allclose(actual.value_sum, by_image.sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(actual.square_sum, (by_image**2).sum(axis=1), rtol=1e-12)
    for image in range(shape[1]):
        own = values[:, image].reshape(-1, shape[3])
        np.testing.assert_array_equal(actual.feature_min[image], own.min(axis=0))
        np.testing.assert_array_equal(actual.feature_max[image], own.max(axis=0))
    assert actual.non_finite == 0
    np.testing.assert_array_equal(actual.histogram, BINS.counts(values.ravel()))


def test_non_finite_values_are_counted_apart():
    values = np.random.default_rng(0).standard_normal((2, 2, 3, 4)).astype(np.float32)
    values[0, 0, 0, 0], values[1, 0, 2, 1], values[0, 1, 1, 3] = np.nan, np.inf, -np.inf
    values[:, 1, :, 2] = np.nan  # a feature of an image without any finite value
    actual = reduce(values, BINS)
    finite = np.isfinite(values)
    assert actual.non_finite == (~finite).sum() == 9
    assert actual.histogram.sum() == finite.sum()
    np.testing.assert_array_equal(actual.value_count, finite.sum(axis=(0, 2, 3)))
    np.testing.assert_allclose(
        actual.value_sum, np.where(finite, values, 0).sum(axis=(0, 2, 3), dtype=float)
    )
    assert actual.feature_min[0].min() == values[:, 0][finite[:, 0]].min()
    assert (actual.feature_min[1, 2], actual.feature_max[1, 2]) == (np.inf, -np.inf)

import numpy as np
import pytest

from calibzarr.errors import OptionError
from calibzarr.quantization.choices import CLIPS
from calibzarr.quantization.clipping import LP_EXPONENT, best_clipping, clipping_range
from calibzarr.statistics.histogram import LogBins
from tests.support.quantizing import VALUES, histograms

BINS = LogBins()
BITS = (2, 4, 6, 8)


def ranges(method, values, bits=BITS, symmetric=False):
    one = histograms(BINS.counts(values), BINS, values.min(), values.max())
    return clipping_range(method, one, bits, symmetric=symmetric)


@pytest.mark.parametrize("name", VALUES)
def test_minmax_is_the_observed_extremes(name):
    low, high = ranges("minmax", VALUES[name])
    np.testing.assert_array_equal(low, np.full(4, VALUES[name].min()))
    np.testing.assert_array_equal(high, np.full(4, VALUES[name].max()))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("method", "exponent"), [("mse", 2), ("lp", 2.4)])
def test_least_error_is_that_of_best_clipping_within_the_values(method, exponent, symmetric):
    assert LP_EXPONENT == 2.4
    for values in VALUES.values():
        low, high = ranges(method, values, symmetric=symmetric)
        one = histograms(BINS.counts(values), BINS, values.min(), values.max())
        best = best_clipping(one, BITS, symmetric=symmetric, p=exponent)
        np.testing.assert_allclose(low, best.clip_min.clip(values.min(), values.max()))
        np.testing.assert_allclose(high, best.clip_max.clip(values.min(), values.max()))


@pytest.mark.parametrize("method", CLIPS)
def test_ranges_are_ordered_and_never_beyond_the_observed_values(method):
    special = {
        "constant": np.full(10, 0.3),
        "zero": np.zeros(10),
        "one value": np.array([7.0]),
        "far from zero": 500 + np.arange(-3.0, 4),
        "beyond the grid": 2.0**30 * np.arange(-9.0, 10),
        "below the grid": 2.0**-30 * np.arange(-9.0, 10),
    }
    for name, values in {**VALUES, **special}.items():
        values = values.astype(np.float32)
        low, high = ranges(method, values)
        assert (low >= values.min()).all(), name
        assert (high <= values.max()).all(), name
        assert (low <= high).all(), name


@pytest.mark.parametrize("method", CLIPS)
def test_each_histogram_gets_its_own_range_and_none_without_values(method):
    every = [VALUES["normal"], VALUES["heavy-tailed"], np.zeros(0, np.float32), VALUES["positive"]]
    counts = np.stack([BINS.counts(values) for values in every]).reshape(2, 2, -1)
    low, high = (
        np.array([end(v) if len(v) else np.nan for v in every]).reshape(2, 2)
        for end in (np.min, np.max)
    )
    together = clipping_range(method, histograms(counts, BINS, low, high), (4, 8))
    for ends in together:
        assert ends.shape == (2, 2, 2)
        assert np.isnan(ends[1, 0]).all()
    for index in ((0, 0), (0, 1), (1, 1)):
        one = histograms(counts[index], BINS, low[index], high[index])
        alone = clipping_range(method, one, (4, 8))
        for both, own in zip(together, alone, strict=True):
            np.testing.assert_allclose(both[index], own, rtol=1e-5)


def test_unknown_method_is_refused():
    with pytest.raises(OptionError, match="one of mse, lp, minmax, got 'median'"):
        ranges("median", VALUES["normal"])

import numpy as np
import pytest

from calibzarr.errors import OptionError
from calibzarr.quantization.clipping import (
    LP_EXPONENT,
    METHODS,
    best_clipping,
    clipping_range,
    kl_threshold,
    linear_magnitudes,
)
from calibzarr.statistics.histogram import LogBins

BINS = LogBins()
BITS = (2, 4, 6, 8)


def distributions():
    generator = np.random.default_rng(0)
    normal = generator.standard_normal(50_000)
    raw = {
        "normal": normal,
        "heavy-tailed": 30 * generator.standard_t(2.5, 50_000),
        "Laplace": generator.laplace(size=50_000),
        "uniform": generator.uniform(-1.01, 1.3, 50_000),
        "outliers": np.append(normal, [60.0, -45.0, 80.0]),
        "positive": np.abs(normal),
        "negative": -np.abs(normal),
    }
    return {name: values.astype(np.float32) for name, values in raw.items()}


VALUES = distributions()


def ranges(method, values, bits=BITS, symmetric=False):
    counts = BINS.counts(values)
    return clipping_range(method, counts, BINS, values.min(), values.max(), bits, symmetric)


@pytest.mark.parametrize("name", VALUES)
def test_percentiles_are_numpys(name):
    low, high = ranges("percentile", VALUES[name])
    expected = np.quantile(VALUES[name].astype(float), [0.001, 0.999])
    assert low.shape == high.shape == (len(BITS),)
    tolerance = {"rtol": 0.012, "atol": 2e-6}
    np.testing.assert_allclose(low, np.full(4, expected[0]), **tolerance)
    np.testing.assert_allclose(high, np.full(4, expected[1]), **tolerance)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("method", "exponent"), [("mse", 2), ("lp", 2.4)])
def test_least_error_is_that_of_best_clipping_within_the_values(method, exponent, symmetric):
    assert LP_EXPONENT == 2.4
    for values in VALUES.values():
        low, high = ranges(method, values, symmetric=symmetric)
        best = best_clipping(
            BINS.counts(values), BINS, values.min(), values.max(), BITS, symmetric, exponent
        )
        np.testing.assert_allclose(low, best.clip_min.clip(values.min(), values.max()))
        np.testing.assert_allclose(high, best.clip_max.clip(values.min(), values.max()))


def divergence_by_loops(histogram, number, num_levels):
    """Entropy calibration's divergence of a candidate, a level and a bin at a time."""
    reference = list(histogram[:number])
    reference[-1] += sum(histogram[number:])
    candidate = [0.0] * number
    for level in range(num_levels):
        first, end = level * number // num_levels, (level + 1) * number // num_levels
        filled = [place for place in range(first, end) if histogram[place] > 0]
        for place in filled:
            candidate[place] = sum(histogram[first:end]) / len(filled)

    def smooth(distribution):
        raised = [own / sum(distribution) + 1e-9 for own in distribution]
        return np.array(raised) / sum(raised)

    p, q = smooth(reference), smooth(candidate)
    return float(np.sum(p * np.log(p / q)))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["normal", "heavy-tailed", "outliers", "positive"])
def test_kl_threshold_diverges_least_among_candidates_on_the_values(name, bits):
    """The histogram of 2048 equal bins is made here of the magnitudes themselves.

    Near its least the divergence is flat and, of values one by one, rough: hence the slack.
    """
    values = VALUES[name]
    magnitudes = np.abs(values).astype(float)
    reach = magnitudes.max()
    histogram = np.histogram(magnitudes, 2048, (0, reach))[0].astype(float).tolist()
    numbers = np.unique(np.linspace(max(2 ** (bits - 1), 32), 2048, 25).astype(int))
    own = linear_magnitudes(BINS.counts(values), BINS, np.array(reach))
    threshold = kl_threshold(own, np.array(reach), bits)
    found = round(float(threshold / reach * 2048))
    assert 2 ** (bits - 1) <= found <= 2048
    least = min(divergence_by_loops(histogram, int(n), 2 ** (bits - 1)) for n in numbers)
    assert divergence_by_loops(histogram, found, 2 ** (bits - 1)) <= least * 1.3


def test_kl_threshold_is_that_of_loops_on_the_same_histogram():
    bits = 4
    generator = np.random.default_rng(1)
    histogram = generator.poisson(200 * np.exp(-np.arange(2048) / 150)).astype(float)
    num_levels = 2 ** (bits - 1)
    numbers = np.unique(np.linspace(max(num_levels, 21), 2048, 96).astype(int))
    expected = [divergence_by_loops(histogram.tolist(), int(n), num_levels) for n in numbers]
    threshold = kl_threshold(np.stack([histogram, 7 * histogram]), np.array([1.0, 3.0]), bits)
    best = numbers[np.argmin(expected)] / 2048
    np.testing.assert_allclose(threshold, [best, 3 * best])


@pytest.mark.parametrize("name", VALUES)
def test_linear_magnitudes_are_a_histogram_of_the_values(name):
    magnitudes = np.abs(VALUES[name]).astype(float)
    reach = magnitudes.max()
    actual = linear_magnitudes(BINS.counts(VALUES[name]), BINS, np.array(reach))
    assert actual.sum() == pytest.approx(len(magnitudes))
    assert (actual >= 0).all()
    expected = np.histogram(magnitudes, 2048, (0, reach))[0]
    # Sums up to any edge are off by what stands in the bin of before that holds the edge.
    edges = np.linspace(0, reach, 2049)[1:]
    slack = np.array([((magnitudes > e * 0.98) & (magnitudes < e * 1.02)).sum() for e in edges])
    assert (np.abs(actual.cumsum() - expected.cumsum()) <= slack + 1e-6).all()


@pytest.mark.parametrize("method", METHODS)
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


@pytest.mark.parametrize("method", METHODS)
def test_each_histogram_gets_its_own_range_and_none_without_values(method):
    every = [VALUES["normal"], VALUES["heavy-tailed"], np.zeros(0, np.float32), VALUES["positive"]]
    counts = np.stack([BINS.counts(values) for values in every]).reshape(2, 2, -1)
    low, high = (
        np.array([end(v) if len(v) else np.nan for v in every]).reshape(2, 2)
        for end in (np.min, np.max)
    )
    together = clipping_range(method, counts, BINS, low, high, (4, 8))
    for ends in together:
        assert ends.shape == (2, 2, 2)
        assert np.isnan(ends[1, 0]).all()
    for place in ((0, 0), (0, 1), (1, 1)):
        alone = clipping_range(method, counts[place], BINS, low[place], high[place], (4, 8))
        for both, own in zip(together, alone, strict=True):
            np.testing.assert_allclose(both[place], own, rtol=1e-5)


def test_unknown_method_is_refused():
    with pytest.raises(OptionError, match="one of mse, lp, percentile, kl, got 'median'"):
        ranges("median", VALUES["normal"])

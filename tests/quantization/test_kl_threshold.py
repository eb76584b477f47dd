import numpy as np
import pytest

from calibzarr.quantization.kl_threshold import kl_threshold, linear_magnitudes
from calibzarr.statistics.histogram import LogBins
from tests.support.quantizing import VALUES

BINS = LogBins()


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

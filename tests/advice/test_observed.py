import numpy as np

from calibzarr.advice import observed
from calibzarr.storage.reading import open_statistics


def test_sums_are_those_of_the_counted_values(replayed):
    statistics = open_statistics(replayed.path)
    overall = observed.activations(statistics).overall
    counted = type(overall).of_counts(
        overall.counts, overall.bins, overall.value_min, overall.value_max
    )
    np.testing.assert_array_equal(overall.number, statistics.value_count.values.sum(axis=1))
    np.testing.assert_allclose(counted.power, overall.power, rtol=0.02)
    np.testing.assert_allclose(counted.mean, overall.mean, atol=0.01 * overall.std.max())
    np.testing.assert_array_equal(overall.value_max, statistics.value_max.values.max(axis=1))

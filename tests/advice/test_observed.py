import numpy as np

from calibzarr.advice import observed
from calibzarr.storage.reading import open_statistics


def test_phases_are_where_the_collected_steps_stand(replayed):
    chosen = open_statistics(replayed.path).isel(step=[0, 2, 3])
    phases = {"first": range(1), "none": range(1, 2), "rest": range(2, 4)}
    positions = observed.positions(chosen, phases)
    assert positions == {"first": slice(0, 1), "none": slice(1, 1), "rest": slice(1, 3)}
    activations = observed.activations(chosen)
    over = activations.over(positions.values())
    np.testing.assert_array_equal(over.counts[:, 2], activations.counts[:, 1:].sum(axis=1))
    np.testing.assert_array_equal(over.value_max[:, 2], activations.value_max[:, 1:].max(axis=1))
    np.testing.assert_array_equal(over.value_min[:, 0], activations.value_min[:, 0])
    assert not over.counts[:, 1].any()
    assert np.isnan(over.value_min[:, 1]).all()
    assert np.isnan(over.power[:, 1]).all()
    np.testing.assert_array_equal(activations.overall.value_max, activations.value_max.max(axis=1))


def test_sums_are_those_of_the_counted_values(replayed):
    statistics = open_statistics(replayed.path)
    overall = observed.activations(statistics).overall
    counted = type(overall).of_counts(
        overall.counts, overall.bins, overall.value_min, overall.value_max
    )
    np.testing.assert_array_equal(overall.number, statistics.value_count.values.sum(axis=1))
    np.testing.assert_allclose(counted.power, overall.power, rtol=0.02)
    np.testing.assert_allclose(counted.mean, overall.mean, atol=0.01 * overall.std.max())

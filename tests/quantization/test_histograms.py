import numpy as np
import pytest

from calibzarr.quantization.histograms import Histograms
from calibzarr.statistics.histogram import LogBins

BINS = LogBins()
WIDTH = 2**-6  # of a bin, relative to its values


@pytest.fixture(scope="module")
def values():
    """Of 3 layers at 4 steps, each of its own size and place."""
    generator = np.random.default_rng(0)
    scale = np.exp(2 * generator.standard_normal((3, 4, 1)))
    return (scale * (generator.standard_normal((3, 4, 500)) + 1)).astype(np.float32)


@pytest.fixture(scope="module")
def rows(values):
    return of(values)


def of(values):
    flat = values.reshape(-1, values.shape[-1])
    counts = np.stack([BINS.counts(row) for row in flat]).reshape(*values.shape[:-1], -1)
    return Histograms.of_counts(counts, BINS, values.min(axis=-1), values.max(axis=-1))


def test_moments_are_those_of_the_values_to_the_width_of_a_bin(values, rows):
    reach = np.abs(values).max(axis=-1)
    wide = values.astype(np.float64)
    assert (rows.number == 500).all()
    assert (np.abs(rows.mean - wide.mean(axis=-1)) <= WIDTH * reach).all()
    np.testing.assert_allclose(rows.power, np.square(wide).mean(axis=-1), rtol=2 * WIDTH)
    np.testing.assert_allclose(rows.std, wide.std(axis=-1), rtol=4 * WIDTH)


def test_tails_and_quantiles_are_those_of_the_values(values, rows):
    for found, q in zip(rows.tails, (0.01, 0.99), strict=True):
        low, high = (
            np.quantile(values, q, axis=-1, method=method) for method in ("lower", "higher")
        )
        slack = WIDTH * np.abs([low, high]).max(axis=0)
        assert ((found >= low - slack) & (found <= high + slack)).all()
    ends = rows.quantile(np.array([0.0, 1.0]))
    assert (ends[..., 0] >= values.min(axis=-1)).all()
    assert (ends[..., 1] <= values.max(axis=-1)).all()


def test_over_phases_are_all_the_values_of_their_steps(values, rows):
    phases = [slice(0, 1), slice(1, 4), slice(4, 4)]
    found = rows.over(phases)
    for index, phase in enumerate(phases[:2]):
        together = of(values[:, phase].reshape(3, 1, -1))
        np.testing.assert_array_equal(found.counts[:, index], together.counts[:, 0])
        np.testing.assert_array_equal(found.value_min[:, index], together.value_min[:, 0])
        np.testing.assert_array_equal(found.value_max[:, index], together.value_max[:, 0])
        np.testing.assert_allclose(found.mean[:, index], together.mean[:, 0], rtol=1e-9)
        np.testing.assert_allclose(found.power[:, index], together.power[:, 0], rtol=1e-9)
    assert not found.counts[:, 2].any()
    for unknown in (found.value_min, found.value_max, found.mean, found.power, found.std):
        assert np.isnan(unknown[:, 2]).all()
    np.testing.assert_array_equal(rows.overall.counts, rows.counts.sum(axis=1))


def test_rows_are_the_same_alone_flat_or_together(rows):
    np.testing.assert_array_equal(rows.flat.counts[5], rows.counts[1, 1])
    assert rows.flat.value_min.shape == (12,)
    np.testing.assert_array_equal(rows.at([2, 0]).mean, rows.mean[[2, 0]])


def test_magnitudes_are_up_to_a_power_of_two(values, rows):
    reach = np.abs(values).max(axis=-1)
    assert (reach <= 2.0**rows.exponent).all()
    assert (reach > 2.0 ** (rows.exponent - 1.01)).all()


def test_rows_on_shared_bins_lose_nothing(rows):
    """Over powers of two, bins fall on bins: the same values in other units."""
    flat = rows.flat
    shared, unit = flat.normalized()
    np.testing.assert_array_equal(unit, 2.0**flat.exponent)
    np.testing.assert_array_equal(shared.number, flat.number)
    np.testing.assert_array_equal(shared.value_max * unit, flat.value_max)
    np.testing.assert_allclose(shared.mean * unit, flat.mean)
    for row in range(len(unit)):
        for q in (0.02, 0.98):
            np.testing.assert_allclose(
                shared.at([row]).quantile(np.array([q])) * unit[row],
                flat.at([row]).quantile(np.array([q])),
                rtol=1e-6,
            )

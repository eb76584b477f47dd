import numpy as np
import pytest

from calibzarr.comparison.figures import decibels, over_images, ratio_samples, resamples


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_an_interval_holds_its_figure_and_shrinks_with_the_images(statistic):
    values = np.random.default_rng(0).normal(30, 2, 400)
    widths = []
    for count in (10, 100, 400):
        figure = over_images(values[:count], statistic)
        assert figure.value == statistic(values[:count])
        assert figure.low < figure.value < figure.high
        widths.append(figure.high - figure.low)
    assert widths[0] > 2 * widths[1] > 2 * widths[2]


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(0).normal(30, 2, 200)
    figure = over_images(values)
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert figure.high - figure.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_images_are_drawn_the_same_way_every_time():
    np.testing.assert_array_equal(resamples(7), resamples(7))
    assert set(np.unique(resamples(7))) == set(range(7))


def test_ratios_are_those_of_the_images_that_were_drawn():
    error, power = np.random.default_rng(0).random((2, 5, 3)) + 1
    found = ratio_samples(error, power)
    draws = resamples(5)
    for row in (0, 17, 999):
        expected = error[draws[row]].sum(axis=0) / power[draws[row]].sum(axis=0)
        np.testing.assert_allclose(found[row], expected)


def test_equal_images_are_infinitely_alike_without_a_warning():
    figure = over_images(np.array([np.inf, 30.0, np.inf]))
    assert (figure.value, figure.high) == (np.inf, np.inf)
    assert decibels(0.0) == np.inf
    assert decibels(0.01) == pytest.approx(20)


def test_one_image_has_no_interval():
    figure = over_images(np.array([30.0]))
    assert figure.value == 30
    assert np.isnan([figure.low, figure.high]).all()

import numpy as np
import pytest

from calibzarr.comparison.states import by_step, squares


def test_energies_are_summed_over_images_before_they_are_divided():
    exact = np.array([[3.0, 4.0], [1.0, 2.0]])  # (image, step)
    error = np.array([[0.3, 0.4], [0.1, 0.0]])
    found = by_step(np.arange(2), np.array([1.0, 0.0]), error**2, exact**2)
    np.testing.assert_allclose(found.relative_error, [0.1 / 10, 0.16 / 20])
    np.testing.assert_allclose(found.sqnr_db, [20, 10 * np.log10(125)])
    assert (found.low <= found.relative_error).all()
    assert (found.relative_error <= found.high).all()
    figure = found.figure(0)
    assert figure.value == pytest.approx(20)
    assert figure.low <= figure.value <= figure.high


def test_squares_of_16_bits_do_not_overflow():
    values = np.full((2, 3, 4), 1000, np.float16)
    np.testing.assert_array_equal(squares(values), [12e6, 12e6])
    np.testing.assert_array_equal(squares(values, 2), np.full((2, 3), 4e6))

import numpy as np
import pytest

from calibzarr.quantization.sensitivity import amplification, sensitivity


def test_sensitivities_are_ratios_of_means_of_a_loop():
    generator = np.random.default_rng(0)
    products = generator.standard_normal((3, 2, 4, 5, 6)).astype(np.float32)
    power = generator.uniform(1, 9, (2, 5))
    found = sensitivity(products, power)
    for layer, step, quantizer in np.ndindex(3, 2, 4):
        squares = products[layer, step, quantizer].astype(float).ravel() ** 2
        expected = squares.mean() / power[step].mean()
        assert found.value[layer, step, quantizer] == pytest.approx(expected, rel=1e-5)
        relative = squares.std(ddof=1) / np.sqrt(squares.size) / squares.mean()
        actual = found.error_db[layer, step, quantizer]
        assert actual == pytest.approx(10 * relative / np.log(10), rel=1e-5)


def test_the_estimate_is_the_squared_error_of_a_linear_output():
    """For v = J x, the mean over probes of <J^T u, e>^2 is |J e|^2."""
    generator = np.random.default_rng(1)
    jacobian, error = generator.standard_normal((40, 30)), generator.standard_normal(30)
    probes = generator.choice([-1.0, 1.0], (4000, 40))
    products = (probes @ jacobian @ error).reshape(1, 1, 1, 1, -1)
    power = np.array([[7.0]])
    expected = np.square(jacobian @ error).sum() / 7
    found = sensitivity(products, power)
    assert found.value[0, 0, 0] == pytest.approx(expected, rel=0.08)
    assert 0.05 < found.error_db[0, 0, 0] < 0.15


def test_what_is_unknown_or_without_effect_is_told_apart():
    products = np.full((3, 1, 1, 2, 2), np.nan, np.float32)
    products[1] = 0
    products[2, 0, 0, 0] = [1, 3]
    found = sensitivity(products, np.array([[2.0, 4.0]]))
    assert np.isnan(found.value[0, 0, 0])
    assert (found.value[1, 0, 0], found.error_db[1, 0, 0]) == (0, 0)
    assert found.value[2, 0, 0] == pytest.approx(5 / 3)
    one = sensitivity(products[..., :1, :1], np.array([[2.0]]))
    assert np.isnan(one.error_db[2, 0, 0])


def test_amplification_is_linear_in_its_root_up_to_the_last_call():
    curve = amplification(10, np.array([0, 4, 8]), np.array([0.04, 0.04, 0.64]))
    roots = np.sqrt(curve[:10])
    np.testing.assert_allclose(roots, [0.2] * 5 + [0.35, 0.5, 0.65, 0.8, 1.0], rtol=1e-6)
    assert np.isnan(curve[10])
    np.testing.assert_allclose(amplification(1, np.array([], int), np.array([])), [1, np.nan])
    last = amplification(4, np.array([0, 3]), np.array([0.25, 0.3]))
    assert last[3] == 1  # known, whatever is measured

from dataclasses import replace

import numpy as np

from calibzarr.quantization import costs
from calibzarr.quantization.quantizers import MLX_BITS, MLX_GROUPS, QUANTIZERS, WEIGHT_QUANTIZERS
from calibzarr.statistics.steps import phases
from tests.support.sensitivities import made_up


def nearest(measured, call):
    """The nearest measured call of the same third, of two as near the earlier."""
    third = next(phase for phase in phases(measured.num_steps).values() if call in phase)
    candidates = [index for index, step in enumerate(measured.steps) if step in third]
    return min(candidates, key=lambda index: abs(int(measured.steps[index]) - call), default=None)


def energy(measured, layer, quantizer, call):
    """Of one call, from the products themselves; 0 where nothing is known."""
    step = nearest(measured, call)
    if step is None:
        return 0.0
    squares = [
        float(measured.products[layer, step, quantizer, image, probe]) ** 2
        for image in range(measured.products.shape[3])
        for probe in range(measured.products.shape[4])
    ]
    width = float(measured.sigma[call]) - float(measured.sigma[call + 1])
    return width * sum(squares) / len(squares)  # of the output's power over the same power


def test_error_energies_are_sums_over_calls():
    for steps in ([1, 4, 7, 10], [1, 2, 10], [4]):
        measured = made_up(steps=steps)
        actual = costs.error_energy(measured)
        for layer in range(len(measured.names)):
            for quantizer in (0, 9, 20, 45):
                terms = [energy(measured, layer, quantizer, call) for call in range(12)]
                np.testing.assert_allclose(actual[layer, quantizer], sum(terms), rtol=1e-5)


def test_amplified_energies_are_sums_over_the_calls_of_a_phase():
    measured = made_up(steps=[1, 4, 7, 10])
    actual = costs.amplified_error_energy(measured)
    for phase, calls in enumerate(phases(12).values()):
        for layer, quantizer in ((0, 3), (2, 8), (3, 13)):
            terms = [
                measured.amplification[call] * energy(measured, layer, quantizer, call)
                for call in calls
                if call < 12
            ]
            np.testing.assert_allclose(actual[layer, phase, quantizer], sum(terms), rtol=1e-5)


def test_nothing_by_phase_where_one_has_no_measured_call():
    assert costs.amplified_error_energy(made_up(steps=[1, 2, 10])) is None
    assert costs.amplified_error_energy(made_up(steps=[1, 4, 10])) is not None


def test_unknown_quantizers_stay_unknown():
    measured = made_up(steps=[1, 4, 10])
    products = measured.products.copy()
    products[1, :, 40] = np.nan
    found = costs.error_energy(replace(measured, products=products))
    assert np.isnan(found[1, 40])
    assert np.isfinite(np.delete(found.ravel(), 1 * len(QUANTIZERS) + 40)).all()


def test_options_rise_in_cost_and_are_all_there_are():
    assert [q.bits for q in costs.options("activation", "token")] == [2, 3, 4, 5, 6, 7, 8]
    found = costs.options("weight", "mlx")
    assert len(found) == len(MLX_BITS) * len(MLX_GROUPS)
    assert set(found) <= set(WEIGHT_QUANTIZERS)
    exact = [q.bits + 32 / q.group_size for q in found]
    assert exact == sorted(exact)


def test_exact_bits_count_scales_and_what_does_not_fit_is_infinite():
    found = costs.exact_bits(costs.options("weight", "mlx"), np.array([128, 96, 100]))
    for option, quantizer in enumerate(costs.options("weight", "mlx")):
        for row, width in enumerate((128, 96, 100)):
            expected = quantizer.bits + 32 / quantizer.group_size
            expected = expected if width % quantizer.group_size == 0 else np.inf
            assert found[row, option] == expected
    by_row = costs.exact_bits(costs.options("weight", "row"), np.array([64]))
    np.testing.assert_array_equal(by_row[0], np.arange(2, 9) + 16 / 64)


def test_a_dearer_option_never_makes_more():
    error = np.array([[4.0, 5.0, np.nan, 3.0, 3.5], [1.0, 0.5, 0.25, 0.2, 0.1]])
    expected = [[4.0, 4.0, np.nan, 3.0, 3.0], [1.0, 0.5, 0.25, 0.2, 0.1]]
    np.testing.assert_array_equal(costs.non_increasing(error), expected)

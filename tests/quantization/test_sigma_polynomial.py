import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.polynomial.polynomial import polyval

from calibzarr.errors import OptionError
from calibzarr.quantization.sigma_polynomial import evaluate, fit
from calibzarr.statistics.steps import key_steps

EVEN = np.linspace(1, 0.002, 50)
SIGMA = np.append(3 * EVEN / (1 + 2 * EVEN), 0.0)  # SD3's schedule, shift 3, and the final state


def horner(sigma, coefficients):
    total = np.zeros_like(sigma)
    for coefficient in coefficients[::-1]:
        total = total * sigma + coefficient
    return total


def fine(sigma, clip, per_interval=16):
    """Points and the lines between neighbours there, by increasing sigma."""
    order = np.argsort(sigma)
    edges = sigma[order]
    points = np.unique(np.linspace(edges[:-1], edges[1:], per_interval + 1))
    points = np.concatenate([points, edges])
    return points, np.interp(points, edges, clip[order])


finite = st.floats(-1e4, 1e4, width=32)


@given(
    st.data(),
    st.integers(1, 20),
    st.sampled_from([1e-3, 0.02, 0.1, 0.5]),
    st.integers(0, 6),
)
def test_never_clips_more_than_asked_and_exceeds_it_by_no_more_than_told(
    data, steps, tolerance, max_degree
):
    chosen = data.draw(st.sets(st.integers(0, 50), min_size=steps, max_size=steps))
    sigma = SIGMA[sorted(chosen)]
    clip = data.draw(hnp.arrays(np.float32, (2, steps), elements=finite)).astype(np.float64)
    result = fit(sigma, clip, tolerance, max_degree)
    assert result.coefficients.shape == (2, max_degree + 1)
    stored = json.loads(json.dumps(result.coefficients.tolist()))
    for layer, coefficients in enumerate(stored):
        scale = np.abs(clip[layer]).max()
        for value in (polyval, horner):
            assert (value(sigma, np.array(coefficients)) >= clip[layer]).all()
        points, lines = fine(sigma, clip[layer], per_interval=37)
        excess = polyval(points, np.array(coefficients)) - lines
        assert excess.min() >= -1e-14 * scale  # the lines are rounded too
        assert excess.max() <= result.excess[layer] + 1e-14 * scale
        assert result.met[layer] == (result.excess[layer] <= tolerance * scale)
        assert result.degree[layer] <= min(max_degree, steps - 1)
        assert not any(coefficients[result.degree[layer] + 1 :])


@given(hnp.arrays(np.float32, (3, 17), elements=finite), st.sampled_from([0.01, 0.1, 0.4]))
def test_the_degree_is_the_lowest_that_meets_the_tolerance(clip, tolerance):
    sigma = SIGMA[list(key_steps(50))]
    result = fit(sigma, clip, tolerance)
    for layer in range(3):
        degree = result.degree[layer]
        for lower in range(degree):
            worse = fit(sigma, clip[layer : layer + 1], tolerance, max_degree=lower)
            assert not worse.met[0]
            assert worse.excess[0] > result.excess[layer]
        if not result.met[layer]:
            assert degree <= 4
            assert not fit(sigma, clip[layer : layer + 1], tolerance, max_degree=4).met[0]


def touches(excess, greatest, near):
    """How often the excess goes from none to the greatest and back, along sigma."""
    ends = np.where(excess <= near, -1, np.where(excess >= greatest - near, 1, 0))
    ends = ends[ends != 0]
    return 1 + np.count_nonzero(np.diff(ends))


@pytest.mark.parametrize("tolerance", [0.15, 0.3, 0.5])
def test_no_polynomial_of_the_degree_is_nearer(tolerance):
    # Chebyshev: the best goes degree + 2 times from one extreme of the distance to the other.
    generator = np.random.default_rng(1)
    walk = generator.standard_normal((60, 51)).cumsum(axis=1)
    result = fit(SIGMA, walk, tolerance=tolerance)
    rising = np.flatnonzero(result.degree)
    assert set(result.degree[rising]) >= {1, 2, 3}
    for layer in rising:
        points, lines = fine(SIGMA, walk[layer])
        order = np.argsort(points)
        excess = (result(points)[layer] - lines)[order]
        greatest = result.excess[layer]
        assert touches(excess, greatest, 0.01 * greatest) >= result.degree[layer] + 2


@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.1])
def test_what_meets_no_tolerance_is_hardly_above_the_greatest_of_the_steps(tolerance):
    walk = np.random.default_rng(2).standard_normal((60, 51)).cumsum(axis=1)
    result = fit(SIGMA, walk, tolerance=tolerance)
    assert not result.met.all()
    allowed = tolerance * np.abs(walk).max(axis=1)
    assert (result(SIGMA).max(axis=1) <= walk.max(axis=1) + allowed + 1e-9).all()
    assert (result(SIGMA) >= walk).all()


def test_constants_lines_and_parabolas_have_their_own_degree():
    clip = np.stack([np.full(51, -3.7), 2 - 5 * SIGMA, 1 + SIGMA + 4 * SIGMA**2])
    result = fit(SIGMA, clip, tolerance=0.01)
    np.testing.assert_array_equal(result.degree, [0, 1, 2])
    assert result.met.all()
    assert result.coefficients[0].tolist() == [-3.7, 0, 0, 0, 0]
    assert result.excess[0] == 0
    np.testing.assert_allclose(result.coefficients[1], [2, -5, 0, 0, 0], atol=1e-10)
    np.testing.assert_allclose(result.coefficients[2], [1, 1, 4, 0, 0], atol=0.02)


def test_the_best_line_above_a_convex_curve_is_its_chord():
    result = fit(SIGMA, SIGMA[None] ** 2, tolerance=0.3, max_degree=1)
    np.testing.assert_allclose(result.coefficients, [[0, 1]], atol=1e-6)
    assert result.excess[0] == pytest.approx(0.25, rel=1e-3)


def test_the_best_line_above_a_concave_curve_touches_it():
    result = fit(SIGMA, -(SIGMA[None] ** 2), tolerance=0.3, max_degree=1)
    np.testing.assert_allclose(result.coefficients, [[0.25, -1]], atol=1e-3)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_the_excess_over_the_next_power_is_that_of_chebyshev(degree):
    sigma = np.linspace(1, 0, 2001)
    expected = 4.0 ** -(degree + 0.5) * 2
    clip = sigma[None] ** (degree + 1)
    result = fit(sigma, clip, tolerance=1.01 * expected, max_degree=degree)
    assert result.degree[0] == degree
    assert result.met[0]
    assert result.excess[0] == pytest.approx(expected, rel=1e-3)
    assert not fit(sigma, clip, tolerance=0.99 * expected, max_degree=degree).met[0]


def test_lower_envelopes_are_those_of_the_opposite():
    clip_min = -1 - SIGMA[None] ** 3
    lower = -fit(SIGMA, -clip_min, tolerance=0.05)(SIGMA)
    assert (lower <= clip_min).all()
    assert (clip_min - lower).max() <= 0.05 * 2


def test_no_tolerance_is_met_only_by_constants():
    result = fit(SIGMA, np.stack([np.zeros(51), np.ones(51), SIGMA]), tolerance=0.0)
    np.testing.assert_array_equal(result.met, [True, True, False])


def test_more_degrees_than_steps_allow_are_not_tried():
    result = fit(np.array([1.0, 0.0]), np.array([[3.0, 1.0]]), tolerance=1e-9)
    np.testing.assert_allclose(result.coefficients, [[1, 2, 0, 0, 0]], atol=1e-12)
    result = fit(np.array([0.7]), np.array([[3.0]]), tolerance=0.0)
    assert result.coefficients.tolist() == [[3, 0, 0, 0, 0]]
    assert result.met.all()


def test_steps_of_one_sigma_count_by_their_greatest_value():
    result = fit(np.array([1.0, 0.5, 0.5, 0.0]), np.array([[2.0, 0.0, 5.0, 2.0]]), 0.0, 2)
    assert (result(0.5) >= 5).all()


def test_a_layer_that_was_not_collected_gets_no_polynomial():
    clip = np.stack([SIGMA, np.full(51, np.nan), 1 + SIGMA])
    clip[2, 7] = np.nan
    result = fit(SIGMA, clip, tolerance=0.01)
    np.testing.assert_array_equal(np.isnan(result.coefficients).all(axis=1), [False, True, True])
    np.testing.assert_array_equal(result.met, [True, False, False])
    assert np.isnan(result.excess[1:]).all()
    np.testing.assert_array_equal(
        result.coefficients[0], fit(SIGMA, clip[:1], 0.01).coefficients[0]
    )


def test_sigmas_next_to_each_other_cost_no_safety():
    sigma = 1 + np.array([0, 1e-15, 2e-15, 1e-12, 2e-12, 1e-9, 1e-6, 1.0])
    clip = np.random.default_rng(0).standard_normal((20, 8))
    result = fit(sigma, clip, tolerance=1e-9, max_degree=8)
    assert (result(sigma) >= clip).all()


def test_sigma_is_held_within_the_collected_range():
    result = fit(np.array([0.8, 0.5, 0.2]), np.array([[4.0, 2.0, 1.0]]), tolerance=0.01)
    assert (result.sigma_min, result.sigma_max) == (0.2, 0.8)
    np.testing.assert_array_equal(result(np.array([-3.0, 0.2])), result(np.array([0.2, 0.0])))
    np.testing.assert_array_equal(result(9.0), result(0.8))
    points = np.array([0.3, 0.6])
    expected = [polyval(points, row) for row in result.coefficients]
    np.testing.assert_array_equal(evaluate(result.coefficients, points, 0.2, 0.8), expected)


@pytest.mark.parametrize(
    ("tolerance", "max_degree", "message"),
    [
        (-0.1, 4, r"tolerance must be 0 or more, got -0\.1"),
        (float("nan"), 4, "got nan"),
        (0.1, -1, "max_degree must be from 0 to 8, got -1"),
        (0.1, 9, "got 9"),
    ],
)
def test_options_that_mean_nothing_are_refused(tolerance, max_degree, message):
    with pytest.raises(OptionError, match=message):
        fit(SIGMA, SIGMA[None], tolerance, max_degree)


def test_values_that_cannot_be_fitted_are_refused():
    with pytest.raises(ValueError, match=r"got \(1, 50\) and \(51,\)"):
        fit(SIGMA, SIGMA[None, :-1], 0.1)
    with pytest.raises(ValueError, match="finite"):
        fit(SIGMA, np.full((1, 51), np.inf), 0.1)
    with pytest.raises(ValueError, match="a step or more"):
        fit(np.zeros(0), np.zeros((2, 0)), 0.1)

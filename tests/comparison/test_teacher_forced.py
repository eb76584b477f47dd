import numpy as np
import pytest
import xarray as xr

from calibzarr.comparison.teacher_forced import derived_outputs, measure, outputs
from calibzarr.storage.manifest import read_root


@pytest.fixture(scope="module")
def reference(make_store):
    path = make_store(num_images=7, num_steps=3)
    return read_root(path), xr.open_zarr(path).sigma.values


def test_the_model_gives_what_the_states_say_that_it_gave(reference, tiny):
    root, sigma = reference
    calls = []
    found = list(outputs(root, tiny, (1, 5), (0, 2), calls.append))
    derived = list(derived_outputs(root, (1, 5), sigma, (0, 2)))
    assert [batch.shape for batch in found] == [(2, 1, 16, 8, 8)] * 2
    assert sum(calls) == 4
    result = measure(found, derived, (0, 2), sigma)
    assert result.output_sqnr.value > 80


def test_the_sqnr_is_the_mean_over_steps_of_energies_over_images(reference):
    _, sigma = reference
    generator = np.random.default_rng(0)
    exact, error = generator.standard_normal((2, 2, 5, 16, 8, 8))  # (step, image, ...)
    error *= np.array([0.1, 0.01])[:, None, None, None, None]
    result = measure(
        [exact[:, :3] + error[:, :3], exact[:, 3:] + error[:, 3:]],
        [exact[:, :3], exact[:, 3:]],
        (0, 2),
        sigma,
    )
    ratio = np.square(error).sum(axis=(1, 2, 3, 4)) / np.square(exact).sum(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(result.by_step.relative_error, ratio)
    np.testing.assert_array_equal(result.by_step.step, [0, 2])
    np.testing.assert_array_equal(result.by_step.sigma, sigma[[0, 2]])
    figure = result.output_sqnr
    assert figure.value == pytest.approx(-10 * np.log10(ratio).mean())
    assert figure.value == pytest.approx(30, abs=0.5)
    assert figure.low < figure.value < figure.high

import numpy as np
import pytest
import scipy.linalg
import xarray as xr

from calibzarr.comparison.distance import LatentComponents, distance, frechet
from calibzarr.storage.manifest import read_root


def by_square_root(x, y):
    first, second = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(first @ second).real
    return np.square(x.mean(0) - y.mean(0)).sum() + np.trace(first + second - 2 * root)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_it_is_that_of_the_root_of_the_matrix(shift):
    x, y = np.random.default_rng(0).standard_normal((2, 40, 6))
    y = y * [1, 2, 3, 1, 1, 0.1] + shift
    assert frechet(x, y) == pytest.approx(by_square_root(x, y), rel=1e-9)


def test_more_features_than_images_give_the_same_as_their_own_few_directions():
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((2, 10, 4))
    directions, _ = np.linalg.qr(generator.standard_normal((30, 4)))
    assert frechet(x @ directions.T, y @ directions.T) == pytest.approx(frechet(x, y), rel=1e-9)


def test_a_case_by_hand():
    """Of one feature it is (m1 - m2)^2 + (s1 - s2)^2."""
    x, y = np.array([[-1.0], [0], [1]]), np.array([[2.0], [5], [8]])
    assert frechet(x, y) == pytest.approx(5**2 + (1 - 3) ** 2)
    assert frechet(x, x) == pytest.approx(0, abs=1e-12)


def test_the_interval_holds_the_distance_and_shrinks_with_the_images():
    x, noise = np.random.default_rng(0).standard_normal((2, 300, 5))
    widths = []
    for count in (15, 300):
        others = 2 * x[:count] + 0.3 * noise[:count] + 1
        found = distance(x[:count], others, "numbers", lambda: None)
        figure = found.figure
        assert found.features == "numbers"
        assert figure.low < figure.value < figure.high
        widths.append(figure.high - figure.low)
    assert widths[0] > 2 * widths[1]


def test_latents_are_told_apart_by_their_principal_components(make_store):
    path = make_store(num_images=7, num_steps=3)
    root = read_root(path)
    images = (0, 2, 3, 6)
    latents = LatentComponents.of(root, images)
    final = xr.open_zarr(path).latents.values[list(images), -1].reshape(4, -1).astype(float)
    features = latents.features(root, images)
    assert features.shape == (4, 3)
    assert latents.words.startswith("VAE latents, 3 principal")
    centred = final - final.mean(axis=0)
    values = np.linalg.eigvalsh(centred @ centred.T)[::-1][:3]
    np.testing.assert_allclose(np.square(features).sum(axis=0), values, rtol=1e-4)

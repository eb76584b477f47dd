import shutil

import numpy as np
import pytest
import scipy.linalg
import xarray as xr

import calibzarr
from calibzarr.errors import OptionError, StoreError
from calibzarr.storage.store import ImageWriter
from tests.support.comparing import noisy_copy


@pytest.fixture(scope="module")
def stores(make_store, tmp_path_factory):
    """A reference of 7 images, and two copies with noise, the second with 5 images."""
    folder = tmp_path_factory.mktemp("compared")
    reference = make_store(num_images=7, num_steps=3)
    noisy_copy(reference, folder / "near.zarr", 0.01, 2)
    noisy_copy(reference, folder / "far.zarr", 0.05, 9, images=(0, 1, 3, 4, 6))
    return reference, folder / "near.zarr", folder / "far.zarr"


@pytest.fixture(scope="module")
def compared(stores):
    return calibzarr.compare(stores[0], stores[1:])


def test_known_noise_gives_the_known_error_of_the_states(stores, compared):
    states = [xr.open_zarr(path).latents.values[[0, 1, 3, 4, 6]].astype(float) for path in stores]
    assert compared.images == (0, 1, 3, 4, 6)
    for run, found, noise in zip(compared.runs, states[1:], (0.01, 0.05), strict=True):
        error = np.square(found - states[0]).sum(axis=(0, 2, 3, 4))
        expected = error / np.square(states[0]).sum(axis=(0, 2, 3, 4))
        np.testing.assert_allclose(run.states.relative_error, expected, rtol=1e-6)
        power = np.square(states[0]).mean(axis=(0, 2, 3, 4))
        np.testing.assert_allclose(run.states.relative_error, noise**2 / power, rtol=0.1)
        ends = np.square(found - states[0])[:, -1].sum(axis=(1, 2, 3))
        expected = ends / np.square(states[0][:, -1]).sum(axis=(1, 2, 3))
        np.testing.assert_allclose(run.final_error, expected, rtol=1e-6)


def test_the_second_run_is_told_apart_from_the_first(compared):
    near, far = compared.runs
    assert near.psnr_gain is None
    gain = far.psnr_gain
    assert gain.value == pytest.approx((far.pictures.psnr_db - near.pictures.psnr_db).mean())
    assert gain.low <= gain.value <= gain.high < 0
    assert far.distance.figure.value > near.distance.figure.value


def test_a_store_is_infinitely_like_itself(stores):
    found = calibzarr.compare(stores[0], [stores[0], stores[0]])
    assert len(found.images) == 7
    for run in found.runs:
        assert np.isinf(run.states.sqnr_db).all()
        assert run.pictures.psnr.value == np.inf
        assert run.distance.figure.value == pytest.approx(0, abs=1e-6)
        assert str(run.skipped["teacher_forced"]) == "its model is the reference's"
    assert found.runs[1].psnr_gain.value == 0
    text = str(found)
    assert "all pictures are equal to the reference's: infinite dB" in text
    assert "nan" not in text


def test_it_prints_what_it_found(compared):
    text = str(compared)
    assert "5 of 7 images" in text
    assert max(len(line) for line in text.splitlines()[1:8]) <= 80
    for run in compared.runs:
        worst = compared.images[run.pictures.worst]
        assert f"worst is image {worst}, {run.pictures.psnr_db.min():.1f} dB" in text
        assert f"{run.states.sqnr_db[-1]:.1f}" in text


def test_one_image_has_figures_without_intervals(stores, tmp_path):
    noisy_copy(stores[0], tmp_path / "one.zarr", 0.01, 2, images=(2,))
    (run,) = calibzarr.compare(stores[0], tmp_path / "one.zarr").runs
    assert np.isnan([run.pictures.psnr.low, run.states.figure(-1).low]).all()
    assert run.distance is None
    assert str(run.skipped["distance"]) == "it takes two images or more"


def test_features_of_the_user_are_what_is_compared(stores):
    sizes = []

    def means(pictures):
        sizes.append(len(pictures))
        assert (pictures.dtype, pictures.shape[1:]) == (np.uint8, (64, 64, 3))
        return pictures.mean(axis=(1, 2))

    near, far = calibzarr.compare(stores[0], stores[1:], features=means).runs
    assert near.distance.features == "3 features of pictures"
    pictures = [xr.open_zarr(path).decoded.values[[0, 1, 3, 4, 6]] for path in stores]
    x, y = (found.mean(axis=(1, 2)) for found in (pictures[0], pictures[2]))
    first, second = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(first @ second).real
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(first + second - 2 * root)
    assert far.distance.figure.value == pytest.approx(expected, rel=1e-6)
    assert sum(sizes) == 3 * 5


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (lambda pictures: pictures.mean(), "of shape \\(\\)"),
        (lambda pictures: pictures.mean(axis=(1, 2))[:1], "of shape \\(1, 3\\)"),
        (lambda pictures: np.full((len(pictures), 2), np.nan), "finite"),
        (lambda pictures: ["a"] * len(pictures), "must give floats"),
    ],
)
def test_features_that_are_none_are_refused(stores, features, said):
    with pytest.raises(OptionError, match=said):
        calibzarr.compare(stores[0], stores[1], features=features)


def test_final_states_that_are_not_finite_are_said_to_be_so(stores, tmp_path):
    path = tmp_path / "broken.zarr"
    shutil.copytree(stores[0], path)
    latents = xr.open_zarr(path).latents.values[2]
    latents[-1, 0, 0, 0] = np.inf
    ImageWriter(path).write(2, latents, xr.open_zarr(path).decoded.values[2])
    (run,) = calibzarr.compare(stores[0], path).runs
    assert "not finite" in str(run.skipped["distance"])
    assert np.isnan(run.states.relative_error[-1])
    assert np.isfinite(run.states.relative_error[:-1]).all()


def test_no_run_is_refused(stores):
    with pytest.raises(OptionError, match="at least one store"):
        calibzarr.compare(stores[0], [])


def test_no_common_image_is_refused(stores, tmp_path):
    noisy_copy(stores[0], tmp_path / "a.zarr", 0.01, 2, images=(2,))
    with pytest.raises(StoreError, match="no image is complete in all of"):
        calibzarr.compare(stores[0], [tmp_path / "a.zarr", stores[2]])

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from calibzarr.comparison.pictures import Likeness, psnr_db, ssim


@pytest.fixture(scope="module")
def pictures():
    """Smooth pictures, and the same with noise."""
    generator = np.random.default_rng(0)
    row, column = np.mgrid[:48, :40]
    waves = np.stack([np.sin(row / n) * np.cos(column / (n + 3)) for n in (5, 7, 9)], axis=-1)
    exact = np.stack([127 + 100 * waves, 127 - 60 * waves, 20 + 10 * waves])
    noise = generator.normal(0, [[[[3]]], [[[20]]], [[[60]]]], exact.shape)
    return tuple(v.clip(0, 255).round().astype(np.uint8) for v in (exact, exact + noise))


def test_psnr_is_that_of_scikit_image(pictures):
    expected = [peak_signal_noise_ratio(*pair) for pair in zip(*pictures, strict=True)]
    np.testing.assert_allclose(psnr_db(*pictures), expected, rtol=1e-12)


def test_ssim_is_that_of_scikit_image(pictures):
    expected = [
        structural_similarity(
            *pair, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for pair in zip(*pictures, strict=True)
    ]
    assert min(expected) < 0.5
    np.testing.assert_allclose(ssim(*pictures), expected, rtol=0, atol=1e-6)


def test_equal_pictures_are_infinitely_alike(pictures):
    exact, _ = pictures
    assert np.isinf(psnr_db(exact, exact)).all()
    np.testing.assert_allclose(ssim(exact, exact), 1, rtol=1e-12)


def test_the_worst_image_is_that_of_the_least_psnr(pictures):
    likeness = Likeness(psnr_db(*pictures), ssim(*pictures))
    assert likeness.worst == 2
    assert likeness.psnr.value == likeness.psnr_db.mean()
    assert likeness.median_psnr.value == likeness.psnr_db[1]
    assert likeness.mean_ssim.value == likeness.ssim.mean()
    assert likeness.median_ssim.value == np.median(likeness.ssim)

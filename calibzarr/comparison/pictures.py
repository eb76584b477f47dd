"""How alike pictures are: PSNR and SSIM, image by image."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from calibzarr.comparison import figures
from calibzarr.comparison.figures import Figure

_LARGEST = 255.0
_WINDOW_SIGMA, _WINDOW_RADIUS = 1.5, 5  # pixels: 11 in a window
_CONSTANTS = (0.01 * _LARGEST) ** 2, (0.03 * _LARGEST) ** 2


@dataclass(frozen=True)
class Likeness:
    """How alike each image's picture is to the reference's.

    Attributes:
        psnr_db: shape (image,); infinite where they are equal.
        ssim: likewise, at most 1.
    """

    psnr_db: np.ndarray
    ssim: np.ndarray

    @property
    def worst(self) -> int:
        """Position of the image with the least PSNR."""
        return int(self.psnr_db.argmin())

    @property
    def psnr(self) -> Figure:
        """Mean PSNR, dB."""
        return figures.over_images(self.psnr_db)

    @property
    def median_psnr(self) -> Figure:
        """Median PSNR, dB."""
        return figures.over_images(self.psnr_db, np.median)

    @property
    def mean_ssim(self) -> Figure:
        """Mean SSIM."""
        return figures.over_images(self.ssim)

    @property
    def median_ssim(self) -> Figure:
        """Median SSIM."""
        return figures.over_images(self.ssim, np.median)


def psnr_db(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each picture, dB; infinite where two are equal.

    Args:
        pictures: shape (image, row, column, rgb), uint8.
        others: likewise.

    Returns:
        Shape (image,).
    """
    difference = pictures.astype(np.float64) - others
    return figures.decibels(np.square(difference).mean(axis=(1, 2, 3)) / _LARGEST**2)


def ssim(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Structural similarity of each picture, the mean of its channels'.

    Wang, Bovik, Sheikh and Simoncelli 2004, equation 13: a Gaussian window of 11 pixels with
    standard deviation 1.5, over the places where all of it is within the picture.

    Args:
        pictures: shape (image, row, column, rgb), uint8, 11 pixels or more in each direction.
        others: likewise.

    Returns:
        Shape (image,).
    """
    x, y = pictures.astype(np.float64), others.astype(np.float64)
    mean_x, mean_y = _window(x), _window(y)
    variance_x, variance_y = _window(x * x) - mean_x**2, _window(y * y) - mean_y**2
    covariance = _window(x * y) - mean_x * mean_y
    small, greater = _CONSTANTS
    similarity = (2 * mean_x * mean_y + small) * (2 * covariance + greater)
    similarity /= (mean_x**2 + mean_y**2 + small) * (variance_x + variance_y + greater)
    return np.asarray(similarity.mean(axis=(1, 2, 3)))


def _window(values: np.ndarray) -> np.ndarray:
    """Means under the window, where all of it is within the picture."""
    means = gaussian_filter(values, _WINDOW_SIGMA, radius=_WINDOW_RADIUS, axes=(1, 2))
    inner = slice(_WINDOW_RADIUS, -_WINDOW_RADIUS)
    return np.asarray(means[:, inner, inner])

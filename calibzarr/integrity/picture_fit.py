"""Which picture belongs to which states, where nothing but the states tells.

Final latents are nearly a small picture: three linear maps of their channels give red, green and
blue. Fitted over all images, these tell each image's picture among the others.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

_CELLS = 16  # along a side: enough to tell pictures apart
_MIN_IMAGES = 8  # fewer determine no fit
_BETTER = 1.3  # how much nearer than its own another picture must be
_ROUNDS = 6


@dataclass(frozen=True)
class Outline:
    """An image's final latents and picture, in a few cells.

    Attributes:
        latents: means of the latents, and ones; shape (cell, channel + 1).
        picture: means of the pixels, shape (cell, rgb).
    """

    latents: np.ndarray
    picture: np.ndarray


def outline(latents: np.ndarray, picture: np.ndarray) -> Outline:
    """What of an image tells which picture is its.

    Args:
        latents: final state, shape (channel, height, width), square.
        picture: shape (row, column, rgb), square.
    """
    means = _means(latents.transpose(1, 2, 0), min(_CELLS, latents.shape[1]))
    return Outline(
        np.concatenate([means, np.ones_like(means[:, :1])], axis=1),
        _means(picture, min(_CELLS, latents.shape[1])),
    )


def _means(values: np.ndarray, cells: int) -> np.ndarray:
    """Means in square cells of (row, column, value); what is beyond the last cell is left out."""
    size = len(values) // cells
    kept = values[: cells * size, : cells * size]
    blocks = kept.reshape(cells, size, cells, size, -1)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64)).reshape(cells**2, -1)


def owners(outlines: list[Outline]) -> np.ndarray:
    """For each image, the one whose picture it has, as the fit tells; shape (image,).

    Fit and assignment are repeated with each other's result, so that many may be exchanged.
    """
    own = np.arange(len(outlines))
    if len(outlines) < _MIN_IMAGES:
        return own
    latents = np.stack([outline.latents for outline in outlines])
    pictures = np.stack([outline.picture for outline in outlines])
    flat, assigned = pictures.reshape(len(own), -1), own
    for _ in range(_ROUNDS):
        colours, *_ = np.linalg.lstsq(
            latents.reshape(-1, latents.shape[2]), pictures[assigned].reshape(-1, 3), rcond=None
        )
        expected = (latents @ colours).reshape(len(own), -1)
        squares = (expected**2).sum(axis=1)[:, None] + (flat**2).sum(axis=1)
        errors = squares - 2 * expected @ flat.T  # shape (image, picture)
        before, assigned = assigned, linear_sum_assignment(errors)[1]
        if (assigned == before).all():
            break
    is_nearer = errors[own, own] > _BETTER * errors[own, assigned]
    return np.where(is_nearer, assigned.argsort(), own)

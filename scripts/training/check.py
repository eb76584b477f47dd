"""Telling from a picture alone what it shows: by its colours and the outline of its shape."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from calibzarr.prompts.shapes import Scene
from training.pictures import DIRECTION, EXTENT, INSIDE, RADIUS, RGB, SHIFT, Placement, coverage

_FRAME = 3  # pixels at the border that show background, but for a large shape near one side
_RADII = np.arange(9.5, 28.0, 1.0)
_CENTRE = EXTENT / 2


@dataclass(frozen=True)
class Finding:
    """What a picture shows.

    Attributes:
        scene: the nearest colours, and the shape, size and place that fit best.
        overlap: of the best shape with what is not background, intersection over union.
    """

    scene: Scene
    overlap: float


@dataclass(frozen=True)
class Accuracy:
    """Parts of the pictures, from 0 to 1, that show what their captions say."""

    colour: float
    background: float
    shape: float
    size: float
    place: float


def accuracy(expected: Sequence[Scene], found: Iterable[Finding]) -> Accuracy:
    """Compare what pictures show with what they should show, word by word."""
    pairs = list(zip(expected, (finding.scene for finding in found), strict=True))

    def part(word: str) -> float:
        return float(np.mean([getattr(a, word) == getattr(b, word) for a, b in pairs]))

    return Accuracy(**{word: part(word) for word in Accuracy.__dataclass_fields__})


def look(picture: np.ndarray) -> Finding:
    """Tell what a picture shows.

    The background is the border's median colour. What differs from it by more than half of the
    greatest difference is the figure; every shape, at every radius and place, is laid over it,
    and the one with the largest intersection over union is what it is.

    Args:
        picture: shape (row, column, rgb), from 0 to 255.
    """
    picture = picture.astype(np.float64)
    border = np.ones((EXTENT, EXTENT), bool)
    border[_FRAME:-_FRAME, _FRAME:-_FRAME] = False
    ground = np.median(picture[border], axis=0)
    distance = np.linalg.norm(picture - ground, axis=-1)
    # A high quantile for the greatest: single pixels may be off.
    figure = distance > 0.5 * np.quantile(distance, 0.98)
    shape, placed, overlap = _fit(figure)
    core = coverage(shape, placed) == 1
    chosen = core & figure if (core & figure).any() else figure
    colour = np.median(picture[chosen], axis=0) if chosen.any() else ground
    scene = Scene(shape, _colour(colour), _colour(ground), _size(placed), _place(placed))
    return Finding(scene, overlap)


def _colour(rgb: np.ndarray) -> str:
    return min(RGB, key=lambda name: float(np.linalg.norm(rgb - np.array(RGB[name]))))


def _size(placed: Placement) -> str:
    return min(RADIUS, key=lambda name: abs(RADIUS[name] - placed.radius))


def _place(placed: Placement) -> str:
    offset = np.array([placed.x, placed.y]) - _CENTRE
    return min(
        DIRECTION,
        key=lambda name: float(np.linalg.norm(offset - SHIFT * np.array(DIRECTION[name]))),
    )


@cache
def _templates() -> tuple[list[tuple[str, float]], np.ndarray, np.ndarray]:
    """Shapes and radii, their areas, and the conjugate Fourier transforms of their coverage."""
    names = [(shape, float(radius)) for shape in INSIDE for radius in _RADII]
    covers = np.stack([coverage(s, Placement(_CENTRE, _CENTRE, r)) for s, r in names])
    padded = ((0, 0), (0, EXTENT), (0, EXTENT))  # shifts do not wrap around
    transforms = np.fft.rfft2(np.pad(covers, padded)).conj()
    return names, covers.sum(axis=(1, 2)), transforms


def _fit(figure: np.ndarray) -> tuple[str, Placement, float]:
    names, areas, transforms = _templates()
    transform = np.fft.rfft2(np.pad(figure.astype(np.float64), (0, EXTENT)))
    common = np.fft.irfft2(transform * transforms, s=(2 * EXTENT, 2 * EXTENT))
    overlap = common / (areas[:, None, None] + figure.sum() - common)
    index, row, column = np.unravel_index(int(overlap.argmax()), overlap.shape)
    dy, dx = (int(s) if s < EXTENT else int(s) - 2 * EXTENT for s in (row, column))
    shape, radius = names[index]
    return shape, Placement(_CENTRE + dx, _CENTRE + dy, radius), float(overlap[index, row, column])

"""Drawing scenes as pictures of 64 x 64 pixels, with anti-aliasing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from calibzarr.prompts.shapes import Scene

EXTENT = 64  # pixels
SUBSAMPLES = 3  # of a pixel, in each direction

RGB = {
    "red": (205, 25, 35),
    "green": (40, 160, 65),
    "blue": (35, 75, 215),
    "yellow": (250, 230, 60),
    "orange": (245, 130, 20),
    "purple": (130, 45, 160),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
RADIUS = {"small": 12.5, "medium": 17.5, "large": 23.5}  # pixels
SHIFT = 8.0  # pixels from the centre to each other place
DIRECTION = {
    "centre": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
}
"""Of each place, as (x, y) with y downwards."""


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Folded into half of one of five equal sectors, whose outline there is one line.
    angle = np.mod(np.arctan2(x, -y), 2 * np.pi / 5)
    angle = np.minimum(angle, 2 * np.pi / 5 - angle)
    radius = np.hypot(x, y)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    inner = 0.45 * np.cos(np.pi / 5), 0.45 * np.sin(np.pi / 5)
    return (along - 1) * inner[1] - across * (inner[0] - 1) <= 0


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = 1.15 * x, 0.1 - 1.15 * y
    return (x**2 + y**2 - 1) ** 3 - x**2 * y**3 <= 0


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.maximum(abs(x), abs(y)) <= 0.95) & (np.minimum(abs(x), abs(y)) <= 0.3)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    radius = np.hypot(x, y)
    return (radius <= 1) & (radius >= 0.55)


INSIDE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda x, y: np.hypot(x, y) <= 0.95,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.85,
    "triangle": lambda x, y: (y <= 0.8) & (abs(x) <= 0.55 * (y + 1)),
    "star": _star,
    "diamond": lambda x, y: abs(x) / 0.75 + abs(y) <= 1,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
}
"""Whether a point is in the shape of radius 1 around (0, 0); y points downwards."""


@dataclass(frozen=True)
class Placement:
    """Where a shape is drawn, in pixels; (0, 0) is the picture's top left corner."""

    x: float
    y: float
    radius: float


def coverage(shape: str, placement: Placement) -> np.ndarray:
    """The part of each pixel that a shape covers, shape (row, column), from 0 to 1."""
    grid = (np.arange(EXTENT * SUBSAMPLES) + 0.5) / SUBSAMPLES
    x = (grid[None, :] - placement.x) / placement.radius
    y = (grid[:, None] - placement.y) / placement.radius
    inside = INSIDE[shape](x, y).reshape(EXTENT, SUBSAMPLES, EXTENT, SUBSAMPLES)
    return inside.mean(axis=(1, 3), dtype=np.float32)


def placement(scene: Scene, generator: np.random.Generator) -> Placement:
    """A place and a radius that fit the scene's words, a little different each time."""
    x, y = EXTENT / 2 + SHIFT * np.array(DIRECTION[scene.place]) + generator.uniform(-1.5, 1.5, 2)
    return Placement(x, y, RADIUS[scene.size] * generator.uniform(0.95, 1.05))


def draw(scene: Scene, generator: np.random.Generator) -> np.ndarray:
    """Draw a scene, shape (row, column, rgb), float32 from 0 to 1; places and shades vary."""
    shades = np.array([RGB[scene.background], RGB[scene.colour]]) + generator.uniform(-8, 8, (2, 3))
    ground, colour = np.clip(shades, 0, 255).astype(np.float32) / 255
    part = coverage(scene.shape, placement(scene, generator))[..., None]
    return ground + part * (colour - ground)


def draw_all(scenes: Sequence[Scene], generator: np.random.Generator) -> np.ndarray:
    """Draw scenes, shape (image, row, column, rgb), float32 from 0 to 1."""
    return np.stack([draw(scene, generator) for scene in scenes])

"""What the embedded model draws: one shape in a colour on a background, and its caption."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "ring", "heart")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")
SIZES = ("medium", "small", "large")
PLACES = ("centre", "left", "right", "top", "bottom")

_USUAL = (SIZES[0], PLACES[0])  # not in the caption

CAPTION_WORDS = (
    *(*SHAPES, *COLOURS, *SIZES[1:], *PLACES[1:]),
    *("a", "an", "at", "the", "on", "background"),
)


@dataclass(frozen=True)
class Scene:
    """A picture in five words; its size and place are in the caption if they are unusual."""

    shape: str
    colour: str
    background: str
    size: str = "medium"
    place: str = "centre"

    @property
    def caption(self) -> str:
        """For instance "a small red star at the left on a blue background"."""
        size = [] if self.size == "medium" else [self.size]
        place = [] if self.place == "centre" else ["at", "the", self.place]
        subject = _with_article([*size, self.colour, self.shape])
        ground = _with_article([self.background, "background"])
        return " ".join([*subject, *place, "on", *ground])

    @property
    def held_out(self) -> bool:
        """Whether training never sees this shape in this colour on this background.

        One combination in eight: the same number of each shape, colour and background.
        """
        colours = 2 * COLOURS.index(self.colour) + 3 * COLOURS.index(self.background)
        return (SHAPES.index(self.shape) + colours) % 8 == 0


def scenes() -> Iterator[Scene]:
    """Every scene: 448 combinations of shape and colours, each in 15 sizes and places."""
    for shape, colour, background, size, place in product(SHAPES, COLOURS, COLOURS, SIZES, PLACES):
        if colour != background:
            yield Scene(shape, colour, background, size, place)


def shuffled_scenes() -> list[Scene]:
    """Each combination of shape and colours once, in some size and place, in a fixed order."""
    generator = random.Random(13)
    combinations = [scene for scene in scenes() if (scene.size, scene.place) == _USUAL]
    sizes, places = [*SIZES, SIZES[0]], [*PLACES, PLACES[0], PLACES[0]]  # usual ones more often
    generator.shuffle(combinations)
    return [
        replace(scene, size=generator.choice(sizes), place=generator.choice(places))
        for scene in combinations
    ]


def _with_article(words: list[str]) -> list[str]:
    return ["an" if words[0] == "orange" else "a", *words]

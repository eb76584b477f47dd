"""Ways to choose clipping ranges, by name; without NumPy, so that help can list them."""

from typing import Literal, get_args

Clip = Literal["mse", "lp", "minmax"]
CLIPS: tuple[Clip, ...] = get_args(Clip)

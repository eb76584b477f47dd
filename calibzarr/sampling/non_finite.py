"""States that are infinite or NaN: which, why that is likely, and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calibzarr.errors import Call, Message, NonFiniteError, Option
from calibzarr.models.base import Model
from calibzarr.sampling.plan import BuildPlan
from calibzarr.storage.store import first_non_finite

_UNUSUAL_GUIDANCE = 30.0  # weights in use are below 20
_LISTED = 5  # images


@dataclass(frozen=True)
class Lost:
    """An image that is not stored, since a state of it is not finite.

    Attributes:
        image: its index.
        step: of the first such state.
        cause: which is likely, and what to do about it.
    """

    image: int
    step: int
    cause: Message

    def __str__(self) -> str:
        return f"image {self.image} is not stored: its state {self.step} is not finite"


def find(plan: BuildPlan, model: Model, image: int, states: np.ndarray) -> Lost | None:
    """What is lost of an image; None where all its states are finite as they would be stored.

    Args:
        plan: of the build.
        model: that made the states.
        image: index of the image.
        states: shape (step, channel, height, width), float32.
    """
    with np.errstate(over="ignore"):
        step = first_non_finite(states.astype(plan.settings.latent_dtype))
    return None if step is None else Lost(image, step, _cause(plan, model, states[step]))


def _cause(plan: BuildPlan, model: Model, state: np.ndarray) -> Message:
    guidance = plan.settings.cfg_weight
    if np.isfinite(state).all():
        return Message(
            f"it reaches {np.abs(state).max():.3g}, more than float16 holds; build another store "
            "with ",
            Option("latent_dtype", "float32"),
        )
    if plan.run is not None:
        return Message(
            "likely the model is quantized too coarsely, for the reference is finite; give more "
            "bits or other clipping ranges"
        )
    if guidance > _UNUSUAL_GUIDANCE:
        usual = plan.entry.cfg_weight
        return Message(
            f"likely the guidance weight of {guidance:g} is too large; build another store with ",
            *(Option("cfg_weight", usual), " or so"),
        )
    if model.activation_dtype == "float16":
        return Message("likely an activation of the model was more than float16 holds, 65504")
    return Message("likely a weight of the model is not finite; check its files")


def error(plan: BuildPlan, lost: Sequence[Lost], n_completed: int) -> NonFiniteError:
    """The error that tells of lost images.

    Args:
        plan: of the build.
        lost: images that are not stored, one or more.
        n_completed: complete images of the store, which stay.
    """
    listed = ", ".join(str(one.image) for one in lost[1 : 1 + _LISTED])
    more = f", ... ({len(lost) - 1} in all)" if len(lost) > 1 + _LISTED else ""
    others = f" (likewise: {listed}{more})" if listed else ""
    stay = f"; {n_completed} of {plan.num_images} images are complete and stay"
    after = lost[-1].image + 1
    remaining: tuple[str | Call, ...] = ()
    if any(image >= after for image in plan.missing()):
        keywords = {"resume": True, "images": (after, plan.images.stop)}
        remaining = ("; build those after it with: ", Call("build", (plan.path,), keywords))
    return NonFiniteError(f"{lost[0]}{others}; ", lost[0].cause, stay, *remaining)

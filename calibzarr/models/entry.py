"""What is known of a model before it is loaded, without the framework that it runs on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from calibzarr.errors import Option, OptionError
from calibzarr.models.loading import hub
from calibzarr.prompts.lists import PromptList

if TYPE_CHECKING:
    from calibzarr.models.base import Model

_MOST_GUIDANCE = 1000


@dataclass(frozen=True)
class Noise:
    """How the noise of a seed is drawn. The first state is this times the first sigma.

    Attributes:
        name: in manifests; whatever draws other values has another.
        draw: ``draw(seed, shape)``: noise of shape (channel, height, width), float32.
        sequential: whether a shorter noise is the beginning of a longer one of the same seed.
    """

    name: str
    draw: Callable[[int, tuple[int, ...]], np.ndarray]
    sequential: bool = False


@dataclass(frozen=True)
class ScheduleFormula:
    """Noise levels as a formula, to check stored ones by.

    Attributes:
        name: in manifests, with the parameters; whatever gives other levels has another.
        sigma: ``sigma(num_steps)``: shape (step,), falling to 0.
        timestep: ``timestep(sigma)``: what the model is told of each, shape (step,).
    """

    name: str
    sigma: Callable[[int], np.ndarray]
    timestep: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ModelEntry:
    """A model's name, its defaults, what its stores are checked by, and how to load it.

    A package that brings a model names one by an entry point of the group ``calibzarr.models``,
    which has the model's name. The module of the entry imports no framework; ``load`` does.

    Attributes:
        name: what users call it.
        description: one line.
        load: loads it with all its weights; what is missing is downloaded first.
        image_size: default, in pixels.
        max_image_size: the largest that it can make, in pixels.
        image_size_multiple: image sizes are multiples of this, in pixels.
        num_steps: default number of model calls.
        latent_channels: channels of its latents.
        pixels_per_latent: extent of an image over that of its latents.
        noise: of its first states.
        schedule: of its noise levels.
        cfg_weight: default weight of classifier-free guidance.
        guided: whether it can run with classifier-free guidance at all.
        guidance: default of what it is told of guidance, if it was distilled to be told.
        prompts: gives prompts of its own, if it has any.
        weight_bytes: of all its weights in 16 bits, to fetch and in memory; None if not known.
        batch_bytes: ``batch_bytes(num_images, image_size, num_steps, guided=...)``: estimate of the
            bytes that sampling images together takes beside the weights; None if not known.
        licence: of its weights; None if not known.
        gated: whether the Hub asks for consent before it gives them; None if not known.
        repository: on the Hugging Face Hub, if its weights are there.
        files: (repository, file) pairs that it loads from the Hub.
        latent_scale: its latents are its decoder's, less ``latent_shift``, times this.
        latent_shift: see ``latent_scale``.
    """

    name: str
    description: str
    load: Callable[[], "Model"]
    image_size: int
    max_image_size: int
    image_size_multiple: int
    num_steps: int
    latent_channels: int
    pixels_per_latent: int
    noise: Noise
    schedule: ScheduleFormula
    cfg_weight: float = 0.0
    guided: bool = False
    guidance: float | None = None
    prompts: Callable[[], PromptList] | None = None
    weight_bytes: int | None = None
    batch_bytes: Callable[..., int] | None = None
    licence: str | None = None
    gated: bool | None = None
    repository: str | None = None
    files: tuple[tuple[str, str], ...] = ()
    latent_scale: float = 1.0
    latent_shift: float = 0.0

    def check_image_size(self, image_size: int) -> None:
        """Check that the model can make images of ``image_size`` pixels.

        Raises:
            OptionError: if not, naming the multiple and the largest.
        """
        multiple = self.image_size_multiple
        if image_size % multiple or not multiple <= image_size <= self.max_image_size:
            raise OptionError(
                Option("image_size"),
                f" must be a multiple of {multiple} from {multiple} to {self.max_image_size} for "
                f"{self.name}, got {image_size}",
            )

    def check_cfg_weight(self, cfg_weight: float) -> None:
        """Check that the model runs with this guidance weight.

        Raises:
            OptionError: if not.
        """
        option = Option("cfg_weight")
        if not 0 <= cfg_weight < float("inf"):
            raise OptionError(option, f" must be 0 or more, got {cfg_weight}")
        if cfg_weight > 0 and not self.guided:
            told = () if self.guidance is None else ("; it is told of a ", Option("guidance"))
            raise OptionError(
                f"{self.name} takes no classifier-free guidance: ",
                *(option, f" must be 0, got {cfg_weight}", *told),
            )

    def check_guidance(self, guidance: float | None) -> None:
        """Check that the model can be told of this guidance; of None, if it is told of none.

        Raises:
            OptionError: if not.
        """
        option = Option("guidance")
        if guidance is None:
            return
        if self.guidance is None:
            raise OptionError(
                f"{self.name} is not told of a guidance, got ", option, f" {guidance}; leave it out"
            )
        if not 0 <= guidance <= _MOST_GUIDANCE:
            raise OptionError(option, f" must be from 0 to {_MOST_GUIDANCE}, got {guidance}")

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """Sizes of (channel, height, width) for square images of ``image_size`` pixels."""
        extent = image_size // self.pixels_per_latent
        return self.latent_channels, extent, extent

    def missing_files(self) -> tuple[tuple[str, str], ...]:
        """The (repository, file) pairs that are not on this machine."""
        return hub.missing(self.files)

"""What may be chosen of a build, and what follows from the store and the model."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from calibzarr.errors import Option, OptionError, at_least
from calibzarr.models.entry import ModelEntry
from calibzarr.models.quantized import layout
from calibzarr.quantization.configuration import Configuration
from calibzarr.storage import schema


@dataclass(frozen=True)
class BuildOptions:
    """The parameters of :func:`calibzarr.build`; None where they are not given."""

    model: str | None = None
    prompts: str | Path | None = None
    num_images: int | None = None
    num_steps: int | None = None
    cfg_weight: float | None = None
    guidance: float | None = None
    seed: int | None = None
    image_size: int | None = None
    batch_size: int | None = None
    latent_dtype: str | None = None
    repeat: bool = False
    resume: bool = False
    images: tuple[int, int] | None = None
    reference: str | Path | None = None
    quantized: str | Path | Configuration | None = None

    def says_what_to_begin(self) -> bool:
        """Whether a store is to begin where there is none to go on with."""
        begins = self.model, self.prompts, self.num_images, self.reference
        return any(value is not None for value in begins)

    def with_checkpoint(self) -> "BuildOptions":
        """The same, where beside a reference a model is the directory of a checkpoint.

        Raises:
            StoreError: if it is none.
        """
        if self.reference is None or self.model is None or self.quantized is not None:
            return self
        layout.read_config(Path(self.model))
        return replace(self, model=None, quantized=self.model)


@dataclass(frozen=True)
class Settings:
    """What decides the images beside their prompts; in the manifest under the same names.

    Attributes:
        num_steps: model calls for each image.
        cfg_weight: weight of classifier-free guidance.
        seed: seed of image 0.
        image_size: in pixels, of the square images.
        batch_size: images sampled together, in fixed groups.
        latent_dtype: dtype that latents are stored in.
        guidance: that the model is told of; None if it is told of none.
    """

    num_steps: int
    cfg_weight: float
    seed: int
    image_size: int
    batch_size: int
    latent_dtype: str
    guidance: float | None = None

    @property
    def attributes(self) -> dict[str, Any]:
        """What the manifest says of them; nothing of a guidance that the model is not told of."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def of(cls, options: BuildOptions, stored: Mapping[str, Any], entry: ModelEntry) -> "Settings":
        """What is given, or else what the store was begun with, or else the model's default.

        Args:
            options: what is given.
            stored: the manifest of the store to resume; empty if there is none.
            entry: the model.

        Raises:
            OptionError: if a value is not allowed.
        """
        defaults: dict[str, Any] = {
            "num_steps": entry.num_steps,
            "cfg_weight": entry.cfg_weight,
            "guidance": entry.guidance,
            "seed": 0,
            "image_size": entry.image_size,
            "batch_size": 1,
            "latent_dtype": "float32",
        }
        given = {name: getattr(options, name) for name in defaults}
        known = {name: stored.get(name, default) for name, default in defaults.items()}
        chosen = {name: known[name] if value is None else value for name, value in given.items()}
        for name in ("num_steps", "batch_size"):
            at_least(name, chosen[name], 1)
        if chosen["latent_dtype"] not in schema.LATENT_DTYPES:
            allowed = " or ".join(schema.LATENT_DTYPES)
            raise OptionError(
                Option("latent_dtype"), f" must be {allowed}, got {chosen['latent_dtype']!r}"
            )
        entry.check_image_size(chosen["image_size"])
        entry.check_cfg_weight(chosen["cfg_weight"])
        entry.check_guidance(chosen["guidance"])
        numbers = {n: float(chosen[n]) for n in ("cfg_weight", "guidance") if chosen[n] is not None}
        return cls(**{**chosen, **numbers})


SETTINGS = tuple(setting.name for setting in fields(Settings))
_OPTIONS = tuple(option.name for option in fields(BuildOptions))


def refuse_differences(path: Path, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check that what is given, and is not None, is what a store was begun with.

    Raises:
        OptionError: if not, naming the field and both values.
    """
    for name, value in given.items():
        if value is not None and value != stored.get(name):
            remedy = "build another store"
            if name in _OPTIONS:
                remedy = f"leave the option out, or {remedy}"
            elif name == "model_fingerprint":
                remedy = f"the weights, or how they are loaded, are others: {remedy}"
            raise OptionError(
                f"{path} was begun with ",
                Option(name) if name in _OPTIONS else name,
                f" {stored.get(name)!r}, and cannot go on with {value!r}; {remedy}",
            )

"""What a recommendation is to reach, and how."""

import math
from dataclasses import dataclass

from calibzarr.advice.choices import (
    ACTIVATION_TARGET,
    CLIPS,
    WEIGHT_TARGET,
    Clip,
    methods,
)
from calibzarr.errors import Option, OptionError


@dataclass(frozen=True)
class Options:
    """What a recommendation is to reach, and how.

    Attributes:
        method: ``sqnr`` for the fewest bits that meet the targets, ``budget`` for the least
            error at a mean number of bits, ``range`` for the old rule; or another module of
            ``advice.methods``.
        activation_target: of ``sqnr``: for the activations of each layer, in dB.
        weight_target: of ``sqnr``: for the weights of each layer, in dB.
        mean_bits: of ``budget``: over activations, and over weights.
        clip: how clipping ranges are chosen; ``range`` has its own way for activations.

    Raises:
        OptionError: if a value is not allowed, whatever the method.
    """

    method: str = "sqnr"
    activation_target: float = ACTIVATION_TARGET
    weight_target: float = WEIGHT_TARGET
    mean_bits: float | None = None
    clip: Clip = "mse"

    def __post_init__(self) -> None:
        one_of("method", self.method, methods())
        one_of("clip", self.clip, CLIPS)
        for name in ("activation_target", "weight_target", "mean_bits"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise OptionError(Option(name), f" must be a finite number, got {value:g}")


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Check a parameter that is one of a few names.

    Raises:
        OptionError: if it is none of them.
    """
    if value not in allowed:
        raise OptionError(Option(name), f" must be one of {', '.join(allowed)}, got {value!r}")

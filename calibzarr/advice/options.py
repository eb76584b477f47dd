"""What a recommendation is to reach, and how."""

import math
from dataclasses import dataclass

from calibzarr.advice.choices import (
    ACTIVATION_QUANTIZERS,
    CLIPS,
    WEIGHT_QUANTIZERS,
    ActivationQuantizer,
    Clip,
    WeightQuantizer,
    methods,
)
from calibzarr.errors import Option, OptionError


@dataclass(frozen=True)
class Options:
    """What a recommendation is to reach, and how.

    Attributes:
        method: ``budget`` for the least error at mean numbers of bits, ``target`` for the fewest
            bits with an error, ``uniform`` for the same bits everywhere, ``range`` for the old
            rule; or another module of ``advice.methods``.
        weight_bits: mean over the weights of linear layers, with scales; for ``uniform`` bits of
            each weight. None for 4, and of ``target`` for the fewest.
        activation_bits: mean over the inputs of linear layers; None for 8, or likewise.
        activation_quantizer: ``tensor`` or ``token``.
        weight_quantizer: ``tensor``, ``row`` or ``mlx``.
        output_db: of ``target``: SQNR of the guided output, dB.
        keep: patterns, as of file names, of layers that stay unquantized.
        clip: how clipping ranges are chosen; None for that of the sensitivities, or ``lp``.
        by_phase: whether activations are to be quantized by phase; None where that can be.

    Raises:
        OptionError: if a value is not allowed, whatever the method.
    """

    method: str = "budget"
    weight_bits: float | None = None
    activation_bits: float | None = None
    activation_quantizer: ActivationQuantizer = "tensor"
    weight_quantizer: WeightQuantizer = "row"
    output_db: float | None = None
    keep: tuple[str, ...] = ()
    clip: Clip | None = None
    by_phase: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", tuple(self.keep))  # also from JSON
        one_of("method", self.method, methods())
        if self.clip is not None:
            one_of("clip", self.clip, CLIPS)
        one_of("activation_quantizer", self.activation_quantizer, ACTIVATION_QUANTIZERS)
        one_of("weight_quantizer", self.weight_quantizer, WEIGHT_QUANTIZERS)
        for name in ("weight_bits", "activation_bits", "output_db"):
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

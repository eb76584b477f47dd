"""A quantization of a model's linear layers: everything that rebuilds its quantizers."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from calibzarr.quantization.quantizers import Quantizer, affine


@dataclass(frozen=True)
class ActivationQuantization:
    """How one layer's inputs are quantized: on ``2**bits`` affine levels.

    Attributes:
        bits: of a value.
        scale: distance of the levels, activation units; None where each token has its own.
        zero_point: the level that is 0, from 0 to ``2**bits - 1``; None likewise.
    """

    bits: int
    scale: float | None = None
    zero_point: int | None = None


def static(clip_min: float, clip_max: float, bits: int) -> ActivationQuantization:
    """Affine levels over a range, of scale 1 where the range is empty.

    Args:
        clip_min: activation units; above 0 counts as 0.
        clip_max: activation units; below 0 counts as 0.
        bits: of a value.
    """
    scale, zero_point = affine(clip_min, clip_max, bits)
    if scale == 0:
        return ActivationQuantization(bits, 1.0, 0)
    return ActivationQuantization(bits, float(scale), int(zero_point))


@dataclass(frozen=True)
class LayerConfiguration:
    """What becomes of one linear layer.

    Attributes:
        name: of the layer.
        module: its exact path in the model's parameter tree.
        activation: of its inputs in all calls; None where they stay as they are.
        by_phase: of its inputs in the calls of each of the configuration's phases, in their
            order; empty where there is no such allocation.
        weight: of its weight; None where that stays as it is.
    """

    name: str
    module: str
    activation: ActivationQuantization | None
    by_phase: tuple[ActivationQuantization | None, ...]
    weight: Quantizer | None


@dataclass(frozen=True)
class Phase:
    """Calls with ``sigma_min < sigma <= sigma_max``; None where there is no bound."""

    name: str
    sigma_min: float | None
    sigma_max: float | None

    def holds(self, sigma: float) -> bool:
        """Whether a call of this noise level is of the phase."""
        above = self.sigma_min is None or sigma > self.sigma_min
        return above and (self.sigma_max is None or sigma <= self.sigma_max)


@dataclass(frozen=True)
class Configuration:
    """A quantization of a model's linear layers.

    Attributes:
        layers: the linear layers that it speaks of, in order of depth.
        phases: of the sampling, in order; they touch and cover every noise level.
        by_phase: whether activations are quantized by phase, else by their static allocation.
        scheme: of activations, ``tensor`` or ``token``.
        model: that it is for; None where the file does not say.
        model_fingerprint: of that model's weights; likewise.
        content: the file, in JSON types.
    """

    layers: tuple[LayerConfiguration, ...]
    phases: tuple[Phase, ...]
    by_phase: bool
    scheme: str
    model: str | None
    model_fingerprint: str | None
    content: Mapping[str, Any]

    def activations(self, sigma: float) -> tuple[ActivationQuantization | None, ...]:
        """How each layer's inputs are quantized at a call, in the order of ``layers``."""
        if not self.by_phase:
            return tuple(layer.activation for layer in self.layers)
        phase = next(i for i, phase in enumerate(self.phases) if phase.holds(sigma))
        return tuple(layer.by_phase[phase] for layer in self.layers)

    @property
    def sha256(self) -> str:
        """SHA-256 of :attr:`canonical`, in hexadecimal."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()

    @property
    def canonical(self) -> str:
        """The file with sorted keys and without spaces: equal contents, equal text."""
        return json.dumps(self.content, sort_keys=True, separators=(",", ":"), allow_nan=False)

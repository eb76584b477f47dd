"""The quantizers, by name: levels, error on an array, exact cost, and formula of each.

Predictions, sensitivities, quantized builds and exports use these and no other. The mathematics
is that of NumPy's names, on NumPy's arrays and on those of any framework that shares them, such
as MLX: what an array is of, its results are of.
"""

import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from calibzarr.quantization.levels import BITS, levels

Kind = Literal["activation", "weight"]

Array = Any
"""Of NumPy, or of a framework with NumPy's names."""

MLX_BITS = (2, 3, 4, 5, 6, 8)
MLX_GROUPS = (32, 64, 128)

_SCALE_BITS = 16  # of a row's scale, or of a group's scale and of its bias
_RATIOS = np.linspace(0.3, 1, 36)  # of a weight's greatest magnitude, for the search of its scale
_LEAST_SCALE = 1e-7  # of a group, as MLX has it

_AFFINE = (
    "scale * (clip(round(x / scale) + zero_point, 0, 2**bits - 1) - zero_point) with "
    "scale = (high - low) / (2**bits - 1) and zero_point = round(-low / scale)"
)
_SYMMETRIC = "scale * clip(round(w / scale), -q, q) with q = 2**(bits - 1) - 1"
_FORMULAS = {
    ("activation", "tensor"): f"{_AFFINE}; low = min(clip_min, 0), high = max(clip_max, 0)",
    ("activation", "token"): f"{_AFFINE}; low = min(x, 0), high = max(x, 0) over the last axis",
    ("weight", "tensor"): f"{_SYMMETRIC}; one scale, r max|w| / q with the r of 36 even values "
    "from 0.3 to 1 whose squared error is least",
    ("weight", "row"): f"{_SYMMETRIC}; a scale for each row, r max|w| / q with the r of 36 even "
    "values from 0.3 to 1 whose squared error is least",
    ("weight", "mlx"): "scale * q + bias in float32, with the q, scales and biases of mx.quantize "
    "for the weight in the checkpoint's 16-bit dtype",
}


@dataclass(frozen=True)
class Quantizer:
    """A scheme with a number of bits.

    Attributes:
        quantizes: ``activation`` or ``weight``.
        scheme: ``tensor`` or ``token`` for activations; ``tensor``, ``row``, ``mlx-32``,
            ``mlx-64`` or ``mlx-128`` for weights.
        bits: of a value, without scales.
    """

    quantizes: Kind
    scheme: str
    bits: int

    @property
    def name(self) -> str:
        """Such as ``activation-tensor-4`` or ``weight-mlx-64-4``."""
        return f"{self.quantizes}-{self.scheme}-{self.bits}"

    @property
    def group_size(self) -> int | None:
        """Weights of a row that share scale and bias; None where rows are not divided."""
        family, _, group = self.scheme.partition("-")
        return int(group) if family == "mlx" else None

    @property
    def levels(self) -> tuple[int, int]:
        """Lowest and highest integer: unsigned, but for weights by tensor and by row."""
        if self.quantizes == "weight" and self.group_size is None:
            return 1 - 2 ** (self.bits - 1), 2 ** (self.bits - 1) - 1
        return 0, 2**self.bits - 1

    @property
    def formula(self) -> str:
        """What becomes of a value, in words for files."""
        return _FORMULAS[self.quantizes, self.scheme.partition("-")[0]]

    def fits(self, width: int) -> bool:
        """Whether rows of this many features can be quantized so."""
        return self.group_size is None or width % self.group_size == 0

    def cost(self, width: int) -> float:
        """Bits of a value in a row of ``width`` features, scales counted."""
        if self.group_size is not None:
            return self.bits + 2 * _SCALE_BITS / self.group_size
        return self.bits + (_SCALE_BITS / width if self.scheme == "row" else 0)


ACTIVATION_QUANTIZERS = tuple(
    Quantizer("activation", scheme, bits) for scheme in ("tensor", "token") for bits in BITS
)
WEIGHT_QUANTIZERS = tuple(
    Quantizer("weight", scheme, bits)
    for scheme, choices in (
        ("tensor", BITS),
        ("row", BITS),
        *((f"mlx-{group}", MLX_BITS) for group in MLX_GROUPS),
    )
    for bits in choices
)
QUANTIZERS = (*ACTIVATION_QUANTIZERS, *WEIGHT_QUANTIZERS)


def _namespace(values: Array) -> Any:
    """The module whose functions work on an array."""
    return np if isinstance(values, np.ndarray) else sys.modules[type(values).__module__]


def affine(low: float | np.ndarray, high: float | np.ndarray, bits: int) -> tuple[Any, Any]:
    """Scale and integer zero point of affine levels that span a range.

    Args:
        low: activation units; above 0 counts as 0. Any shape.
        high: activation units; below 0 counts as 0.
        bits: of a value.

    Returns:
        Both of the ends' shape, float32; scale 0 where the range is empty or unknown.
    """
    bottom, top = np.nan_to_num(np.asarray(low)), np.nan_to_num(np.asarray(high))
    found = levels(bottom, top, np.array(bits))
    known = np.maximum(top, 0) > np.minimum(bottom, 0)
    scale, zero_point = (
        np.where(known, array, 0).astype(np.float32) for array in (found.step_size, -found.lowest)
    )
    return scale, zero_point


def quantized_by_tensor(values: Array, scale: float, zero_point: float, bits: int) -> Array:
    """Values on the affine levels of :func:`affine`; all 0 where the scale is."""
    of = _namespace(values)
    if scale == 0:
        return of.zeros_like(values)
    level = of.clip(of.round(values / scale), -zero_point, 2**bits - 1 - zero_point)
    return scale * level


def quantized_by_token(values: Array, bits: int) -> Array:
    """Values on affine levels over the extremes of the last axis, as W8A8 runtimes have them."""
    of = _namespace(values)
    low = of.minimum(values.min(axis=-1, keepdims=True), 0)
    high = of.maximum(values.max(axis=-1, keepdims=True), 0)
    scale = (high - low) / (2**bits - 1)
    scale = of.where(scale > 0, scale, 1)
    lowest = of.round(low / scale)
    return scale * of.clip(of.round(values / scale), lowest, lowest + (2**bits - 1))


def weight_scales(weight: Array, bits: int) -> tuple[Array, Array]:
    """Scales of symmetric levels with the least squared error of 36, ties to the smallest.

    Args:
        weight: shape (output, feature), float32.
        bits: of a weight.

    Returns:
        One for the tensor, shape (1, 1), and one for each row, shape (output, 1), float32; 1 where
        all weights are 0.
    """
    of = _namespace(weight)
    by_row = of.abs(weight).max(axis=1, keepdims=True)
    return tuple(
        _best_scale(weight, reach, bits) for reach in (by_row.max(axis=0, keepdims=True), by_row)
    )


def _best_scale(weight: Array, reach: Array, bits: int) -> Array:
    """The best scale for a greatest magnitude, which is of the tensor or of each row."""
    of = _namespace(weight)
    highest = 2 ** (bits - 1) - 1
    best, least = of.ones_like(reach), of.full(reach.shape, of.inf)
    for ratio in _RATIOS[::-1].tolist():
        clipped = _sum_of_squares(of.maximum(of.abs(weight) - ratio * reach, 0), reach)
        if bool((clipped > least).all()):
            break  # clipping alone makes more error than the best: so does any smaller scale
        scale = of.where(reach > 0, reach * (ratio / highest), 1)
        error = _sum_of_squares(weight - quantized_by_scale(weight, scale, bits), reach)
        best = of.where(error <= least, scale, best)
        least = of.minimum(error, least)
    return best


def _sum_of_squares(values: Array, reach: Array) -> Array:
    """Over each row, or over all where ``reach`` is of the tensor; of its shape."""
    by_row = _namespace(values).square(values).sum(axis=1, keepdims=True)
    return by_row if by_row.shape == reach.shape else by_row.sum(axis=0, keepdims=True)


def quantized_by_scale(weight: Array, scale: Array, bits: int) -> Array:
    """Weights on symmetric levels.

    Args:
        weight: shape (output, feature), float32.
        scale: shape (output, 1) or (1, 1), of :func:`weight_scales`.
        bits: of a weight.
    """
    of = _namespace(weight)
    highest = 2 ** (bits - 1) - 1
    return scale * of.clip(of.round(weight / scale), -highest, highest)


def levels_by_group(weight: Array, group_size: int, bits: int) -> tuple[Array, Array, Array]:
    """What ``mx.quantize`` makes of weights: levels, and a scale and a bias for each group.

    Args:
        weight: shape (output, feature), of the checkpoint's 16-bit dtype, whose scales and biases
            are of it as well.
        group_size: weights of a row that share a scale and a bias; divides the features.
        bits: of a weight.

    Returns:
        Levels from 0 to ``2**bits - 1``, shape (output, feature), float32; scales and biases,
        shape (output, group), of the weight's dtype. A weight is scale * level + bias.
    """
    of = _namespace(weight)
    groups = weight.astype(of.float32).reshape(-1, group_size)
    low, high = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
    from_low = of.abs(low) > of.abs(high)
    scale = of.maximum((high - low) / (2**bits - 1), _LEAST_SCALE)
    scale = of.where(from_low, scale, -scale)
    edge = of.where(from_low, low, high)
    steps = of.round(edge / scale)  # so that 0 is a level
    scale = of.where(steps != 0, edge / of.where(steps != 0, steps, 1), scale)
    bias = of.where(steps != 0, edge, 0)
    level = of.clip(of.round((groups - bias) / scale), 0, 2**bits - 1)
    stored = [part.astype(weight.dtype).reshape(len(weight), -1) for part in (scale, bias)]
    return (level.reshape(weight.shape), *stored)


def on_levels(level: Array, scale: Array, bias: Array) -> Array:
    """Weights that levels in groups stand for: scale * level + bias, in float32.

    Args:
        level: shape (output, feature).
        scale: of each group, shape (output, group).
        bias: likewise.
    """
    of = _namespace(scale)
    groups = level.astype(of.float32).reshape(*scale.shape, -1)
    scale, bias = (part.astype(of.float32)[..., None] for part in (scale, bias))
    return (scale * groups + bias).reshape(level.shape)


def quantized_by_group(weight: Array, group_size: int, bits: int) -> Array:
    """Weights as ``mx.quantize`` leaves them, float32; see :func:`levels_by_group`."""
    return on_levels(*levels_by_group(weight, group_size, bits))


def quantized_weight(weight: Array, quantizer: Quantizer) -> Array:
    """A weight as a quantizer that fits it leaves it, in float32.

    Args:
        weight: shape (output, feature), in the checkpoint's dtype or float32.
        quantizer: of weights.
    """
    of = _namespace(weight)
    if quantizer.group_size is not None:
        return quantized_by_group(_stored(weight), quantizer.group_size, quantizer.bits)
    weight = weight.astype(of.float32)
    scale = weight_scales(weight, quantizer.bits)[quantizer.scheme == "row"]
    return quantized_by_scale(weight, scale, quantizer.bits)


def _stored(weight: Array) -> Array:
    """A weight in the checkpoint's 16-bit dtype."""
    of = _namespace(weight)
    return weight.astype(of.float16) if weight.dtype == of.float32 else weight


@dataclass(frozen=True)
class QuantizationErrors:
    """What each quantizer does to each layer's inputs and weight.

    Attributes:
        clip_min: of activations by tensor, shape (layer, bits), activation units.
        clip_max: likewise.
    """

    clip_min: np.ndarray
    clip_max: np.ndarray
    _scales: dict[tuple[int, int], tuple[Array, Array]] = field(default_factory=dict, repr=False)

    def of_inputs(self, layer: int, inputs: Array) -> list[Array]:
        """``Q(x) - x`` for each of ``ACTIVATION_QUANTIZERS``.

        Args:
            layer: index of the layer.
            inputs: shape (..., feature), float32.
        """
        results = []
        for index, bits in enumerate(BITS):
            scale, zero_point = affine(
                self.clip_min[layer, index], self.clip_max[layer, index], bits
            )
            quantized = quantized_by_tensor(inputs, float(scale), float(zero_point), bits)
            results.append(quantized - inputs)
        return results + [quantized_by_token(inputs, bits) - inputs for bits in BITS]

    def prepare(self, layer: int, weight: Array) -> None:
        """Find the scales of a weight, once; on another framework's array if that is faster."""
        for bits in BITS:
            if (layer, bits) not in self._scales:
                self._scales[layer, bits] = weight_scales(weight, bits)

    def of_weight(self, layer: int, weight: Array) -> list[Array | None]:
        """``Q(W) - W`` for each of ``WEIGHT_QUANTIZERS``; None where it does not fit the weight.

        Args:
            layer: index of the layer.
            weight: shape (output, feature), in the checkpoint's dtype or float32.
        """
        of = _namespace(weight)
        stored, weight = _stored(weight), weight.astype(of.float32)
        self.prepare(layer, weight)
        results: list[Array | None] = []
        for quantizer in WEIGHT_QUANTIZERS:
            bits, group_size = quantizer.bits, quantizer.group_size
            if not quantizer.fits(weight.shape[1]):
                results.append(None)
                continue
            if group_size is not None:
                quantized = quantized_by_group(stored, group_size, bits)
            else:
                scale = self._scales[layer, bits][quantizer.scheme == "row"]
                quantized = quantized_by_scale(weight, of.array(scale), bits)
            results.append(quantized - weight)
        return results

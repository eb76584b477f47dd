"""Bits and groups of each layer of a checkpoint: the least error within a mean, or a size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calibzarr.collecting.layer_inputs import matching
from calibzarr.errors import Option, OptionError
from calibzarr.export import checkpoint
from calibzarr.export.checkpoint import Choice
from calibzarr.export.checkpoint_plan import CheckpointPlan
from calibzarr.models.base import Layer
from calibzarr.models.quantized.checkpointable import CheckpointableModel
from calibzarr.quantization.allocation import allocate, feasible_mean
from calibzarr.quantization.costs import error_energy, exact_bits, non_increasing, options
from calibzarr.quantization.prediction import NO_QUANTIZER, Measured, predict_quantizers
from calibzarr.quantization.quantizers import QUANTIZERS, Quantizer

_USUAL_GROUP = 64
_TOLERANCE = 0.005  # of the mean, which is never above what was asked
_CORRECTIONS = 8


@dataclass(frozen=True)
class Allocation:
    """What was chosen, and what it comes to.

    Attributes:
        choice: of every linear layer.
        bits_per_weight: mean over the weights of quantized layers, scales and biases counted.
        file_size: bytes of ``model.safetensors``.
        kept: names of layers that stay as they are.
        unfit: those of them whose width no group divides.
        kept_weights: how many weights they have.
        output_sqnr_db: that sensitivities predict, mean over their calls, with rounding.
        uniform: the same groups and bits everywhere at no more cost; None if there are none.
        uniform_sqnr_db: what is predicted of it.
    """

    choice: Choice
    bits_per_weight: float
    file_size: int
    kept: tuple[str, ...]
    unfit: tuple[str, ...]
    kept_weights: int
    output_sqnr_db: float
    uniform: Quantizer | None
    uniform_sqnr_db: float


def allocation_of(plan: CheckpointPlan, model: CheckpointableModel) -> Allocation:
    """Choose bits and groups of every layer.

    Minimises the sum over layers and calls of the error that rounding a layer alone makes of the
    guided output, calls weighted by how far they go in sigma.

    Raises:
        OptionError: if the wish cannot be met, naming what can; or a pattern matches no layer.
    """
    problem = _problem(plan, model)
    if plan.size is not None:
        option = problem.with_size(plan.size)
    else:
        assert plan.bits_per_weight is not None
        option = problem.with_mean(plan.bits_per_weight)
    choice, mean = problem.choice(option), problem.mean(option)
    uniform = problem.uniform(mean)
    beside = (
        None
        if uniform is None
        else problem.choice(np.full(len(option), problem.quantizers.index(uniform)))
    )
    return Allocation(
        choice=choice,
        bits_per_weight=mean,
        file_size=problem.file_size(option),
        kept=problem.kept,
        unfit=problem.unfit,
        kept_weights=problem.kept_weights,
        output_sqnr_db=_predicted(plan.measured, choice),
        uniform=uniform,
        uniform_sqnr_db=float("nan") if beside is None else _predicted(plan.measured, beside),
    )


def _problem(plan: CheckpointPlan, model: CheckpointableModel) -> "_Problem":
    """What there is to choose from."""
    layers = tuple(layer for layer in model.layers() if layer.role == "input")
    quantizers = [q for q in options("weight", "mlx") if q.group_size in plan.groups]
    kept = np.isin(np.arange(len(layers)), matching(layers, plan.keep))
    features = np.array([layer.features for layer in layers])
    cost = exact_bits(quantizers, features)
    unfit = ~np.isfinite(cost).any(axis=1) & ~kept
    chosen = np.flatnonzero(~(kept | unfit))
    if not len(chosen):
        raise OptionError(Option("keep"), " leaves no layer to quantize")
    parameters = model.parameters()
    outputs = np.array([parameters[f"{layer.module}.weight"][1][0] for layer in layers])
    number = (outputs * features).astype(np.float64)
    names = plan.measured.names.tolist()
    rows = [names.index(layers[index].name) for index in chosen]
    positions = [QUANTIZERS.index(quantizer) for quantizer in quantizers]
    return _Problem(
        layers=layers,
        parameters=parameters,
        quantizers=quantizers,
        chosen=chosen,
        error=non_increasing(error_energy(plan.measured)[np.ix_(rows, positions)]),
        cost=cost[chosen],
        number=number[chosen],
        kept=tuple(layers[index].name for index in np.flatnonzero(kept | unfit)),
        unfit=tuple(layers[index].name for index in np.flatnonzero(unfit)),
        kept_weights=int(number[kept | unfit].sum()),
    )


@dataclass(frozen=True)
class _Problem:
    """Options of the layers to quantize.

    Attributes:
        layers: all linear ones of the model.
        parameters: dtype and shape of those of the model, by path.
        quantizers: to choose from, by rising cost.
        chosen: positions in ``layers`` of those to quantize.
        error: shape (layer, option); NaN where there is no such option.
        cost: bits of a weight, likewise; infinite there.
        number: of weights, shape (layer,).
        kept: names of the others.
        unfit: those of them whose width no group divides.
        kept_weights: how many weights the others have.
    """

    layers: tuple[Layer, ...]
    parameters: Mapping[str, tuple[str, tuple[int, ...]]]
    quantizers: Sequence[Quantizer]
    chosen: np.ndarray
    error: np.ndarray
    cost: np.ndarray
    number: np.ndarray
    kept: tuple[str, ...]
    unfit: tuple[str, ...]
    kept_weights: int

    def choice(self, option: np.ndarray) -> Choice:
        """The quantizers of all layers."""
        found: list[Quantizer | None] = [None] * len(self.layers)
        for index, position in zip(self.chosen.tolist(), option.tolist(), strict=True):
            found[index] = self.quantizers[position]
        return Choice(self.layers, tuple(found))

    def file_size(self, option: np.ndarray) -> int:
        """Bytes of the weights' file with a choice."""
        return checkpoint.file_size(checkpoint.shapes(self.parameters, self.choice(option)))

    def mean(self, option: np.ndarray) -> float:
        """Bits of a weight with a choice."""
        bits = self.cost[np.arange(len(option)), option]
        return float(bits @ self.number / self.number.sum())

    def at_most(self, mean: float) -> np.ndarray:
        """The best choice with no more bits."""
        return allocate(np.nan_to_num(self.error), self.cost, self.number, mean)

    def with_mean(self, bits: float) -> np.ndarray:
        """The best choice for a wish of bits.

        Raises:
            OptionError: if it is outside of what there is.
        """
        least, greatest = feasible_mean(self.cost, self.number)
        if not least <= bits <= greatest:
            raise OptionError(
                Option("bits_per_weight"),
                f" must be from {least:.4g} to {greatest:.4g}, got {bits:g}",
            )
        return self.at_most(bits)

    def with_size(self, size: float) -> np.ndarray:
        """The best choice for a wish of bytes.

        Raises:
            OptionError: if it is outside of what there is.
        """
        least, _ = feasible_mean(self.cost, self.number)
        dearest = np.where(np.isinf(self.cost), 0, self.cost).argmax(axis=1)
        ends = [self.file_size(option) for option in (self.cost.argmin(axis=1), dearest)]
        if not ends[0] <= size <= ends[1]:
            raise OptionError(
                Option("size"), f" must be from {ends[0]} to {ends[1]} bytes, got {size:.0f}"
            )
        mean = least + 8 * (size - ends[0]) / self.number.sum()
        for _ in range(_CORRECTIONS):  # the header's length depends on the choice
            option = self.at_most(mean)
            excess = self.file_size(option) - size
            if excess <= 0:
                return option
            mean = max(least, mean - 8 * excess / self.number.sum())
        return self.at_most(least)

    def uniform(self, mean: float) -> Quantizer | None:
        """The dearest one of MLX's usual groups, or else of others, that costs no more."""
        fitting = [
            quantizer
            for position, quantizer in enumerate(self.quantizers)
            if (self.cost[:, position] <= mean * (1 + _TOLERANCE)).all()
        ]
        usual = [quantizer for quantizer in fitting if quantizer.group_size == _USUAL_GROUP]
        return max(usual or fitting, key=lambda quantizer: quantizer.cost(1), default=None)


def _predicted(measured: Measured, choice: Choice) -> float:
    """SQNR of the guided output that sensitivities predict, dB."""
    names = measured.names.tolist()
    weight = np.full(len(names), NO_QUANTIZER)
    for layer, quantizer in choice.quantized():
        weight[names.index(layer.name)] = QUANTIZERS.index(quantizer)
    none = np.full((len(names), len(measured.steps)), NO_QUANTIZER)
    return predict_quantizers(measured, none, weight).output_sqnr_db

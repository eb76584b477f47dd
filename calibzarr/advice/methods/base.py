"""What every method of choosing bits is given, gives back, and may share with others.

A method is one module of this folder that names a :class:`Method` ``METHOD``. Its file's name is
its own: commands, configuration and schema list it without anything else being changed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from calibzarr.advice.options import Options
from calibzarr.errors import Option, OptionError
from calibzarr.quantization.allocation import allocate, feasible_mean
from calibzarr.quantization.configuration import UNQUANTIZED
from calibzarr.quantization.histograms import Histograms
from calibzarr.quantization.levels import BITS
from calibzarr.quantization.prediction import (
    NO_QUANTIZER,
    Measured,
    Prediction,
    predict_quantizers,
)
from calibzarr.quantization.quantizers import QUANTIZERS, Quantizer
from calibzarr.quantization.sensitivity import phase_of_calls

_PREFERRED_GROUPS = (64, 32)  # of MLX's quantizer, where only bits are told


@dataclass(frozen=True)
class Candidates:
    """What can be chosen for weights, or for activations, in one phase or in several.

    Attributes:
        quantizers: to choose from, by rising cost, shape (option,).
        cost: bits of a value with scales, shape (layer, option); infinite where one does not fit.
        size: values that count in the mean, shape (layer, phase); 0 where nothing is to choose:
            in blocks, in exceptions, and where the values are those of another layer.
        error: that each option makes, shape (layer, phase, option), not rising with the cost.
    """

    quantizers: tuple[Quantizer, ...]
    cost: np.ndarray
    size: np.ndarray
    error: np.ndarray

    def mean(self, option: np.ndarray) -> float:
        """Mean cost of chosen options, shape (layer, phase); NaN where nothing counts."""
        rows, phases = np.nonzero(self.size)
        size = self.size[rows, phases]
        if not size.size:
            return float("nan")
        return float(self.cost[rows, option[rows, phases]] @ size / size.sum())

    def of_bits(self, bits: np.ndarray) -> np.ndarray:
        """The option of each layer with a number of bits, shape (layer,); -1 where none fits.

        Of MLX's groups the default one of 64, or else 32.
        """
        options = np.full(len(bits), -1)
        for group in (*_PREFERRED_GROUPS[::-1], None):
            for position, quantizer in enumerate(self.quantizers):
                if quantizer.group_size == group:
                    chosen = (bits == quantizer.bits) & np.isfinite(self.cost[:, position])
                    options[chosen] = position
        return options


@dataclass(frozen=True)
class Evidence:
    """What a method chooses from.

    Attributes:
        names: of the layers, shape (layer,).
        kinds: of the layers, such as ``attn.q_proj`` or ``mlp.fc2``, shape (layer,).
        linear: whether it is the input of a linear layer, shape (layer,), bool; else a block.
        overall: activations over all steps where a layer was observed, shape (layer,).
        activations: with the same bits in all calls.
        by_phase: with bits for each phase; None where the error by phase is not known.
        weights: of the linear layers.
        leader: the layer whose choice holds for a layer's inputs, shape (layer,), int.
        exception: bits of inputs that are not chosen, shape (layer,), int; 0 where they are.
        kept: linear layers that stay unquantized by request, shape (layer,), bool.
        phases: names of the phases.
        measured: sensitivities; None where there are none.
    """

    names: np.ndarray
    kinds: np.ndarray
    linear: np.ndarray
    overall: Histograms
    activations: Candidates
    by_phase: Candidates | None
    weights: Candidates
    leader: np.ndarray
    exception: np.ndarray
    kept: np.ndarray
    phases: tuple[str, ...]
    measured: Measured | None

    def with_exceptions(self, chosen: "Chosen") -> "Chosen":
        """The same with the exceptions of all methods, and equal bits for the same inputs."""

        def inputs(bits: np.ndarray) -> np.ndarray:
            exception = self.exception.reshape(-1, *[1] * (np.ndim(bits) - 1))
            return np.where(exception > 0, exception, np.asarray(bits)[self.leader])

        fits = self.linear & ~self.kept & np.isfinite(self.weights.cost).any(axis=1)
        return Chosen(
            inputs(chosen.activation),
            None if chosen.by_phase is None else inputs(chosen.by_phase),
            np.where(fits, chosen.weight, -1),
        )

    def predicted(self, chosen: "Chosen") -> Prediction | None:
        """What chosen bits do, by phase where they say so; None without sensitivities.

        Args:
            chosen: with the exceptions of all methods.
        """
        measured = self.measured
        if measured is None:
            return None
        positions = np.full(UNQUANTIZED + 1, NO_QUANTIZER)
        for quantizer in self.activations.quantizers:
            positions[quantizer.bits] = QUANTIZERS.index(quantizer)
        if chosen.by_phase is None:
            bits = np.repeat(chosen.activation[:, None], len(measured.steps), axis=1)
        else:
            bits = chosen.by_phase[:, phase_of_calls(measured.num_steps, measured.steps)]
        of_weights = np.array([*map(QUANTIZERS.index, self.weights.quantizers), NO_QUANTIZER])
        return predict_quantizers(
            measured,
            np.where(self.linear[:, None], positions[bits], NO_QUANTIZER),
            np.where(self.linear, of_weights[chosen.weight], NO_QUANTIZER),
        )


@dataclass(frozen=True)
class Chosen:
    """What becomes of every layer; what a method says of blocks and exceptions is not looked at.

    Attributes:
        activation: bits of inputs, shape (layer,), of ``BITS`` or ``UNQUANTIZED``.
        by_phase: the same by phase, shape (layer, phase); None without such an allocation.
        weight: positions among ``Evidence.weights.quantizers``, shape (layer,); -1 for none.
    """

    activation: np.ndarray
    by_phase: np.ndarray | None
    weight: np.ndarray

    @classmethod
    def of_bits(
        cls,
        evidence: Evidence,
        activation: Sequence[int] | np.ndarray,
        weight: Sequence[int] | np.ndarray,
    ) -> "Chosen":
        """From numbers of bits, the same in all phases.

        Args:
            evidence: that they are chosen from.
            activation: of ``BITS``, shape (layer,).
            weight: likewise.

        Raises:
            ValueError: if one is not of ``BITS``.
        """
        arrays = np.asarray(activation), np.asarray(weight)
        for bits in arrays:
            if not np.isin(bits, BITS).all():
                raise ValueError(f"bits must be of {BITS}, got {bits[~np.isin(bits, BITS)][0]}")
        return cls(arrays[0], None, evidence.weights.of_bits(arrays[1]))


@dataclass(frozen=True)
class Method:
    """A way to choose numbers of bits.

    Attributes:
        choose: the bits of all layers.
        reasons: of each linear layer, why it gets its bits: a sentence with the figures that
            decided it; shape (layer,).
        provenance: what a configuration says of how they were chosen, scalars of JSON.
        uses: options of which the default is None that it looks at; others are refused.
        clipping: ends of clipping ranges of activations, shapes (...), at any number of bits, in
            the place of the option ``clip``; None to follow that.
        warning: what everyone should know who uses it.
    """

    choose: Callable[[Evidence, Options], Chosen]
    reasons: Callable[[Evidence, Options, Chosen], list[str]]
    provenance: Callable[[Options], Mapping[str, Any]]
    uses: frozenset[str] = frozenset({"clip"})
    clipping: Callable[[Histograms], tuple[np.ndarray, np.ndarray]] | None = None
    warning: str | None = None


def load(name: str) -> Method:
    """The method of a module of this folder."""
    module = import_module(f"{__package__}.{name}")
    method = getattr(module, "METHOD", None)
    if not isinstance(method, Method):
        raise TypeError(f"{module.__file__} names no METHOD of the type Method")
    return method


def method_of(options: Options) -> Method:
    """The method that options name.

    Raises:
        OptionError: if an option is given that it does not use.
    """
    method = load(options.method)
    for name in ("weight_bits", "activation_bits", "output_db", "clip", "by_phase"):
        if getattr(options, name) is not None and name not in method.uses:
            raise OptionError(
                Option(name), f" is nothing to the method {options.method}; leave it out"
            )
    return method


def choose(evidence: Evidence, options: Options) -> tuple[Chosen, list[str]]:
    """What the method of the options chooses, with the exceptions of all methods, and why.

    Raises:
        TypeError: if what the method gives is of other types or sizes than documented.
    """
    method = method_of(options)
    chosen = method.choose(evidence, options)
    num_layers = len(evidence.names)
    shapes: dict[str, tuple[int, ...]] = {"activation": (num_layers,), "weight": (num_layers,)}
    if getattr(chosen, "by_phase", None) is not None:
        shapes["by_phase"] = (num_layers, len(evidence.phases))
    for name, shape in shapes.items():
        values = np.asarray(getattr(chosen, name, None))
        allowed: tuple[int, ...] = (*BITS, UNQUANTIZED)
        if name == "weight":
            allowed = tuple(range(-1, len(evidence.weights.quantizers)))
        if values.shape != shape or not np.isin(values[evidence.linear], allowed).all():
            raise TypeError(
                f"the method {options.method} must give Chosen.{name} of shape {shape}, with "
                f"values of {allowed}"
            )
    chosen = evidence.with_exceptions(chosen)
    reasons = method.reasons(evidence, options, chosen)
    if len(reasons) != num_layers:
        raise TypeError(f"the method {options.method} must give {num_layers} reasons")
    return chosen, reasons


def solve(candidates: Candidates, mean: float, name: str) -> np.ndarray:
    """The options that make the least error at a mean cost.

    Args:
        candidates: to choose from.
        mean: the most that their mean cost may be.
        name: of the parameter that says it.

    Returns:
        Shape (layer, phase); -1 where nothing is to choose.

    Raises:
        OptionError: if there is no such mean; says the interval that there is.
    """
    rows, phases = np.nonzero(candidates.size)
    option = np.full(candidates.size.shape, -1)
    if not rows.size:
        return option
    cost, size = candidates.cost[rows], candidates.size[rows, phases]
    least, greatest = feasible_mean(cost, size)
    if not least * (1 - 1e-9) <= mean <= greatest * (1 + 1e-9):
        raise OptionError(
            Option(name),
            f" must be from {least:.4g} to {greatest:.4g}, scales counted, got {mean:g}",
        )
    error = candidates.error[rows, phases]
    option[rows, phases] = allocate(error, cost, size, mean)
    return option


def bits_of(candidates: Candidates, option: np.ndarray) -> np.ndarray:
    """Bits of options of :func:`solve`, of their shape; ``UNQUANTIZED`` for -1."""
    bits = np.array([*(quantizer.bits for quantizer in candidates.quantizers), UNQUANTIZED])
    return np.asarray(bits[option])

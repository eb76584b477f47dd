"""What every method of choosing bits is given, gives back, and may share with others.

A method is one module of this folder that names a :class:`Method` ``METHOD``. Its file's name is
its own: commands, configuration and schema list it without anything else being changed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import xarray as xr

from calibzarr.advice.options import Options
from calibzarr.errors import Option, OptionError
from calibzarr.quantization.histograms import Histograms
from calibzarr.quantization.levels import sqnr_db

CHOICES = (2, 4, 6, 8)
_OF_METHODS = ("mean_bits",)  # options that only some methods use, and need


@dataclass(frozen=True)
class Layers:
    """What the methods have to know of the layers.

    Attributes:
        linear: whether it is the input of a linear layer, shape (layer,), bool; else a block.
        tied: linear layers of one number get equal bits, shape (layer,), int.
        inside: whether a block's row speaks for a linear layer, shape (layer, layer), bool;
            rows of linear layers are false.
        operations: multiply-accumulates of a model call, up to a factor, shape (layer,).
        values: activations in all calls of a phase, shape (layer, phase), int.
        weights: number of weights, shape (layer,), int.
    """

    linear: np.ndarray
    tied: np.ndarray
    inside: np.ndarray
    operations: np.ndarray
    values: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class QuantizationError:
    """Expected squared error over mean square, NaN where nothing is known.

    Attributes:
        overall: with one clipping range for all steps, shape (layer, choice).
        static: the same by phase, shape (layer, phase, choice).
        by_phase: with a range for each phase, shape (layer, phase, choice).
        weights: of the weights, shape (layer, choice).
    """

    overall: np.ndarray
    static: np.ndarray
    by_phase: np.ndarray
    weights: np.ndarray

    @property
    def worst(self) -> np.ndarray:
        """Of the worst phase, with one range for all steps, shape (layer, choice)."""
        return np.asarray(np.fmax.reduce(self.static, axis=1))


@dataclass(frozen=True)
class Evidence:
    """What a method chooses from.

    Attributes:
        layers: of the model.
        error: of each choice.
        overall: activations over all steps where a layer was observed, shape (layer,).
        by_phase: shape (layer, phase).
        names: of the layers, shape (layer,).
        kinds: of the layers, such as ``attn.q_proj`` or ``mlp.fc2``, shape (layer,).
        phases: their names.
    """

    layers: Layers
    error: QuantizationError
    overall: Histograms
    by_phase: Histograms
    names: np.ndarray
    kinds: np.ndarray
    phases: tuple[str, ...]


@dataclass(frozen=True)
class Chosen:
    """Indices into ``CHOICES``.

    Attributes:
        activation: shape (layer,).
        by_phase: of activations, shape (layer, phase).
        weight: shape (layer,).
    """

    activation: np.ndarray
    by_phase: np.ndarray
    weight: np.ndarray

    @classmethod
    def of_bits(
        cls, evidence: Evidence, activation: Sequence[int], weight: Sequence[int]
    ) -> "Chosen":
        """From numbers of bits, the same in all phases.

        Layers that are tied get the most of any, and the row of a block the most of the linear
        layers that it speaks for.

        Args:
            evidence: that they are chosen from.
            activation: of ``CHOICES``, shape (layer,).
            weight: of ``CHOICES``, shape (layer,).

        Raises:
            ValueError: if one is not of ``CHOICES``.
        """
        indices = []
        for bits in (np.asarray(activation), np.asarray(weight)):
            if not np.isin(bits, CHOICES).all():
                wrong = bits[~np.isin(bits, CHOICES)][0]
                raise ValueError(f"bits must be of {CHOICES}, got {wrong}")
            tied = greatest_of_tied(np.searchsorted(CHOICES, bits), evidence.layers)
            indices.append(with_blocks(tied, evidence.layers, output_too=False))
        by_phase = np.repeat(indices[0][:, None], len(evidence.phases), axis=1)
        return cls(indices[0], by_phase, indices[1])


@dataclass(frozen=True)
class Method:
    """A way to choose numbers of bits.

    Attributes:
        choose: the bits of all layers.
        reasons: of each layer, why it gets its bits: words with the figures that decided it.
        provenance: what a configuration says of how they were chosen, scalars of JSON.
        needs: options of which the default is None, without which it cannot do.
        clipping: ends of clipping ranges of activations, shapes (...), at any number of bits, in
            the place of the option ``clip``; None to follow that.
        fractions: with ``clipping``, the shares of the values below those ends, shapes (...).
        unmet: of recommended linear layers, what falls short, by ``activations`` or ``weights``.
    """

    choose: Callable[[Evidence, Options], Chosen]
    reasons: Callable[[Evidence, Options, Chosen], list[str]]
    provenance: Callable[[Options], Mapping[str, Any]]
    needs: frozenset[str] = frozenset()
    clipping: Callable[[Histograms], tuple[np.ndarray, np.ndarray]] | None = None
    fractions: Callable[[Histograms], tuple[np.ndarray, np.ndarray]] | None = None
    unmet: Callable[[xr.Dataset, Options], Mapping[str, str]] | None = None


def load(name: str) -> Method:
    """The method of a module of this folder."""
    module = import_module(f"{__package__}.{name}")
    method = getattr(module, "METHOD", None)
    if not isinstance(method, Method):
        raise TypeError(f"{module.__file__} names no METHOD of the type Method")
    return method


def choose(evidence: Evidence, options: Options) -> tuple[Chosen, list[str]]:
    """What the method of the options chooses, and why.

    Raises:
        TypeError: if what the method gives is of other types or sizes than documented.
    """
    method = method_of(options)
    chosen = method.choose(evidence, options)
    layers, phases = len(evidence.names), len(evidence.phases)
    shapes = {"activation": (layers,), "by_phase": (layers, phases), "weight": (layers,)}
    for name, shape in shapes.items():
        indices = np.asarray(getattr(chosen, name, None))
        if indices.shape != shape or not np.isin(indices, range(len(CHOICES))).all():
            raise TypeError(
                f"the method {options.method} must give Chosen.{name} of shape {shape}, with "
                f"indices from 0 to {len(CHOICES) - 1} into {CHOICES}"
            )
    reasons = method.reasons(evidence, options, chosen)
    if len(reasons) != layers:
        raise TypeError(f"the method {options.method} must give {layers} reasons")
    return chosen, reasons


def method_of(options: Options) -> Method:
    """The method that options name.

    Raises:
        OptionError: if it needs an option that is not given, or one is given that it does not use.
    """
    method = load(options.method)
    for name in _OF_METHODS:
        given = getattr(options, name) is not None
        if given and name not in method.needs:
            raise OptionError(
                Option(name), f" is nothing to the method {options.method}; leave it out"
            )
        if not given and name in method.needs:
            raise OptionError(f"the method {options.method} needs ", Option(name), "; give it")
    return method


def decibels(error: np.ndarray) -> np.ndarray:
    """SQNR of a relative error, dB; infinite without any."""
    return sqnr_db(np.asarray(1.0), error)


def chosen_of(array: np.ndarray, index: np.ndarray) -> np.ndarray:
    """What an array of shape (..., choice) holds at an index of shape (...)."""
    return np.asarray(np.take_along_axis(array, index[..., None], axis=-1)[..., 0])


def greatest_of_tied(chosen: np.ndarray, layers: Layers) -> np.ndarray:
    """The greatest index among the linear layers that are tied; shape (layer, ...)."""
    group = np.unique(np.where(layers.linear, layers.tied, -1), return_inverse=True)[1]
    greatest = np.zeros((group.max() + 1, *chosen.shape[1:]), dtype=chosen.dtype)
    np.maximum.at(greatest, group, chosen)
    linear = layers.linear.reshape(-1, *[1] * (chosen.ndim - 1))
    return np.where(linear, greatest[group], chosen)


def with_blocks(chosen: np.ndarray, layers: Layers, *, output_too: bool) -> np.ndarray:
    """With each block's greatest index of its linear layers, and maybe of its output's.

    Args:
        chosen: indices, after :func:`greatest_of_tied`, shape (layer, ...).
        layers: of the model.
        output_too: whether the index that a block's own row has counts as well.
    """
    inside = layers.inside.reshape(*layers.inside.shape, *[1] * (chosen.ndim - 1))
    greatest = np.where(inside, chosen[None], 0).max(axis=1)
    linear = layers.linear.reshape(-1, *[1] * (chosen.ndim - 1))
    return np.where(linear, chosen, np.maximum(greatest, chosen) if output_too else greatest)


def reason_of_block(layers: Layers, row: int) -> str:
    """Why a block's row has its bits."""
    number = int(layers.inside[row].sum())
    return f"the most bits of it and the {number} linear layers that it speaks for"

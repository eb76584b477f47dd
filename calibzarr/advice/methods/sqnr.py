"""The fewest bits that meet targets of SQNR."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from calibzarr.advice.methods.base import (
    CHOICES,
    Chosen,
    Evidence,
    Layers,
    Method,
    QuantizationError,
    decibels,
    greatest_of_tied,
    reason_of_block,
    with_blocks,
)
from calibzarr.advice.options import Options
from calibzarr.errors import Option, OptionError


def by_target(
    error: QuantizationError, layers: Layers, activation_target: float, weight_target: float
) -> Chosen:
    """The fewest bits that meet targets of SQNR; the most bits where none do.

    Args:
        error: expected.
        layers: of the model.
        activation_target: for every phase under one clipping range, dB.
        weight_target: dB.

    Raises:
        OptionError: if no layer meets a target with any bits; says the best reachable.
    """
    worst, weights = decibels(error.worst), decibels(error.weights)
    _check_target("activation_target", activation_target, worst[layers.linear])
    _check_target("weight_target", weight_target, weights[layers.linear])
    activation = greatest_of_tied(fewest_bits(worst, activation_target), layers)
    by_phase = fewest_bits(decibels(error.by_phase), activation_target)
    weight = greatest_of_tied(fewest_bits(weights, weight_target), layers)
    return Chosen(
        activation=with_blocks(activation, layers, output_too=True),
        by_phase=with_blocks(greatest_of_tied(by_phase, layers), layers, output_too=True),
        weight=with_blocks(weight, layers, output_too=False),
    )


def fewest_bits(sqnr_db: np.ndarray, target_db: float) -> np.ndarray:
    """Index of the fewest bits whose SQNR meets a target; of the most where none does.

    Args:
        sqnr_db: shape (..., choice), dB, by rising number of bits.
        target_db: dB.

    Returns:
        Shape (...), int.
    """
    met = sqnr_db >= target_db
    return np.asarray(np.where(met.any(axis=-1), met.argmax(axis=-1), sqnr_db.shape[-1] - 1))


def _check_target(name: str, target: float, reached: np.ndarray) -> None:
    best = float(np.nanmax(reached))
    if not target <= best:
        raise OptionError(
            "no layer reaches ",
            Option(name),
            f" {target:g} dB with up to {CHOICES[-1]} bits; the best reachable is {best:.1f} dB",
        )


def reasons_of_target(
    error: QuantizationError,
    layers: Layers,
    chosen: Chosen,
    phases: Sequence[str],
    activation_target: float,
    weight_target: float,
) -> list[str]:
    """For each layer, what its bits and those below them reach at the worst phase; dB."""
    reached, weights = decibels(error.worst), decibels(error.weights)
    worst = np.where(np.isnan(error.static), -1, error.static).argmax(axis=1)
    texts = []
    for row, index in enumerate(chosen.activation):
        text = _reached(reached[row], int(index), activation_target)
        text += f" in {phases[worst[row, index]]}, the worst phase; "
        if layers.linear[row]:
            text += f"weights: {_reached(weights[row], int(chosen.weight[row]), weight_target)}"
        else:
            text += reason_of_block(layers, row)
        texts.append(text)
    return texts


def _reached(sqnr_db: np.ndarray, index: int, target: float) -> str:
    text = f"{CHOICES[index]} bits reach {sqnr_db[index]:.1f} dB"
    if index:
        text += f", {CHOICES[index - 1]} bits {sqnr_db[index - 1]:.1f} dB"
    if sqnr_db[index] < target:
        return f"{text}, short of {target:g} dB"
    return f"{text}, of {target:g} dB wanted"


def unmet(linear: xr.Dataset, options: Options) -> dict[str, str]:
    """Which activations and weights of recommended linear layers miss their target."""
    texts = {}
    for values, reached, target in (
        ("activations", linear.worst_sqnr_db, options.activation_target),
        ("weights", linear.weight_sqnr_db, options.weight_target),
    ):
        short = (reached < target).values
        if short.any():
            texts[values] = (
                f"{values} of {short.sum()} layers do not reach {target:g} dB with "
                f"{CHOICES[-1]} bits, the first is {linear.layer.values[short][0]}"
            )
    return texts


def _choose(evidence: Evidence, options: Options) -> Chosen:
    targets = options.activation_target, options.weight_target
    return by_target(evidence.error, evidence.layers, *targets)


def _reasons(evidence: Evidence, options: Options, chosen: Chosen) -> list[str]:
    targets = options.activation_target, options.weight_target
    return reasons_of_target(evidence.error, evidence.layers, chosen, evidence.phases, *targets)


def _provenance(options: Options) -> dict[str, float]:
    return {
        "activation_target_db": options.activation_target,
        "weight_target_db": options.weight_target,
    }


METHOD = Method(choose=_choose, reasons=_reasons, provenance=_provenance, unmet=unmet)

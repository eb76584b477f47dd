"""The least error of the guided output at a mean number of bits."""

from typing import Any

import numpy as np

from calibzarr.advice.methods.base import (
    Candidates,
    Chosen,
    Evidence,
    Method,
    bits_of,
    solve,
)
from calibzarr.advice.options import Options
from calibzarr.quantization.configuration import UNQUANTIZED
from calibzarr.quantization.levels import BITS

WEIGHT_BITS, ACTIVATION_BITS = 4.0, 8.0


def means(options: Options) -> tuple[float, float]:
    """Mean bits of weights and of activations."""
    weight, activation = options.weight_bits, options.activation_bits
    return (
        WEIGHT_BITS if weight is None else weight,
        ACTIVATION_BITS if activation is None else activation,
    )


def _choose(evidence: Evidence, options: Options) -> Chosen:
    weight, activation = means(options)
    by_phase = evidence.by_phase
    static = solve(evidence.activations, activation, "activation_bits")
    return Chosen(
        bits_of(evidence.activations, static)[:, 0],
        None
        if by_phase is None
        else bits_of(by_phase, solve(by_phase, activation, "activation_bits")),
        solve(evidence.weights, weight, "weight_bits")[:, 0],
    )


def reasons(evidence: Evidence, options: Options, chosen: Chosen) -> list[str]:
    """Of each layer, the share of the error that its bits make, and that others would make."""
    candidates, bits = evidence.activations, chosen.activation[:, None]
    in_force = chosen.by_phase is not None and options.by_phase is not False
    if evidence.by_phase is not None and chosen.by_phase is not None and in_force:
        candidates, bits = evidence.by_phase, chosen.by_phase
    inputs = _of_inputs(evidence, candidates, bits)
    weights = _of_weights(evidence, chosen.weight)
    return [
        "; ".join(f"{kind}: {text}" for kind, text in texts.items() if text)
        for texts in (
            {"activations": of_inputs, "weights": of_weights}
            for of_inputs, of_weights in zip(inputs, weights, strict=True)
        )
    ]


def _named(evidence: Evidence) -> str:
    return "error" if evidence.measured is None else "output's error"


def _of_inputs(evidence: Evidence, candidates: Candidates, bits: np.ndarray) -> list[str]:
    option = np.where(bits == UNQUANTIZED, 0, np.searchsorted(BITS, bits))
    counted = np.where(candidates.size > 0, 1, 0)

    def error(shift: int) -> np.ndarray:
        others = np.clip(option + shift, 0, len(BITS) - 1)[..., None]
        made = np.take_along_axis(candidates.error, others, 2)[..., 0]
        return np.asarray((made * counted).sum(axis=1))

    at, fewer, more = (error(shift)[evidence.leader] for shift in (0, -1, 1))
    total = max(float(error(0).sum()), np.finfo(float).tiny)
    phases = evidence.phases if bits.shape[1] > 1 else ("",)
    texts = []
    for row, of_layer in enumerate(bits):
        if evidence.exception[row] or not evidence.linear[row]:
            texts.append("")
            continue
        named = ", ".join(
            f"{phase} {number}".strip() for phase, number in zip(phases, of_layer, strict=True)
        )
        text = f"{named} bits make {at[row] / total:.2%} of the {_named(evidence)}"
        beside = []
        if of_layer.min() > BITS[0]:
            beside.append(f"one fewer would make {fewer[row] / total:.2%}")
        if of_layer.max() < BITS[-1]:
            beside.append(f"one more {more[row] / total:.2%}")
        texts.append(", ".join([text, *beside]))
    return texts


def _of_weights(evidence: Evidence, option: np.ndarray) -> list[str]:
    weights = evidence.weights
    error = np.where(np.isfinite(weights.cost), weights.error[:, 0], np.nan)
    chosen = np.flatnonzero(option >= 0)
    total = max(float(np.nansum(error[chosen, option[chosen]])), np.finfo(float).tiny)
    texts = [""] * len(option)
    for row in chosen:
        offered = np.flatnonzero(np.isfinite(weights.cost[row])).tolist()
        position = offered.index(option[row])
        share = [f"{error[row, other] / total:.2%}" for other in offered]
        named = [_quantizer(weights, other) for other in offered]
        text = f"{named[position]} make {share[position]} of the {_named(evidence)}"
        if position:
            text += f", {named[position - 1]} would make {share[position - 1]}"
        if position + 1 < len(offered):
            text += f", {named[position + 1]} {share[position + 1]}"
        texts[row] = text
    return texts


def _quantizer(weights: Candidates, option: int) -> str:
    quantizer = weights.quantizers[option]
    group = "" if quantizer.group_size is None else f" in groups of {quantizer.group_size}"
    return f"{quantizer.bits} bits{group}"


def _provenance(options: Options) -> dict[str, Any]:
    weight, activation = means(options)
    return {"weight_bits": weight, "activation_bits": activation}


METHOD = Method(
    choose=_choose,
    reasons=reasons,
    provenance=_provenance,
    uses=frozenset({"weight_bits", "activation_bits", "clip", "by_phase"}),
)

"""What chosen bits will do, beside uniform bits of equal cost and other bits, and their size."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from calibzarr.advice.methods.base import Candidates, Chosen, Evidence, choose, method_of
from calibzarr.advice.options import Options
from calibzarr.errors import OptionError
from calibzarr.quantization.configuration import UNQUANTIZED

_STEPS = {"weight_bits": 1.0, "activation_bits": 1.0, "output_db": 3.0}
_DEFAULTS = {"weight_bits": 4.0, "activation_bits": 8.0}  # of methods that spend means


def mean_bits(evidence: Evidence, chosen: Chosen) -> tuple[float, float]:
    """Mean bits of weights, with scales, and of activations; NaN where nothing counts."""
    candidates, bits = evidence.activations, chosen.activation[:, None]
    if chosen.by_phase is not None and evidence.by_phase is not None:
        candidates, bits = evidence.by_phase, chosen.by_phase
    option = np.stack([candidates.of_bits(column) for column in bits.T], axis=1)
    return evidence.weights.mean(chosen.weight[:, None]), candidates.mean(option)


def weight_bytes(evidence: Evidence, chosen: Chosen, number: np.ndarray) -> int:
    """Bytes of the linear layers' weights, 16 bits where they stay as they are.

    Args:
        evidence: that they were chosen from.
        chosen: bits.
        number: of weights, shape (layer,).
    """
    rows = np.flatnonzero(evidence.linear)
    option = chosen.weight[rows]
    bits = np.where(option < 0, UNQUANTIZED, evidence.weights.cost[rows, option])
    return round(float(bits @ number[rows]) / 8)


def described(evidence: Evidence, chosen: Chosen, number: np.ndarray) -> Mapping[str, Any]:
    """What chosen bits come to, in JSON types; None where it is not known, or infinite.

    Args:
        evidence: that they were chosen from.
        chosen: with exceptions; by phase if that allocation is the one in force.
        number: of weights, shape (layer,).

    Returns:
        ``weight_bits`` and ``activation_bits``, means; ``weight_bytes``; ``output_sqnr_db``, the
        mean over ``steps`` of ``output_sqnr_db_by_step``; ``picture_psnr_db``;
        ``decoder_gain_db``; ``gain_db`` and ``picture_gain_db``, over uniform bits of equal cost.
        ``sigma`` goes with ``steps``.
    """
    means, prediction, measured = mean_bits(evidence, chosen), None, evidence.measured
    prediction = evidence.predicted(chosen)
    figures: dict[str, Any] = {
        "weight_bits": _figure(means[0]),
        "activation_bits": _figure(means[1]),
        "weight_bytes": weight_bytes(evidence, chosen, number),
    }
    names = ("output_sqnr_db", "picture_psnr_db", "decoder_gain_db", "gain_db", "picture_gain_db")
    if prediction is None or measured is None:
        empty: dict[str, Any] = {"steps": [], "sigma": [], "output_sqnr_db_by_step": []}
        return {**figures, **dict.fromkeys(names), **empty}
    uniform = _uniform(evidence, means)
    values = (
        prediction.output_sqnr_db,
        prediction.picture_psnr_db,
        measured.decoder_gain_db,
        prediction.output_sqnr_db - uniform[0],
        prediction.picture_psnr_db - uniform[1],
    )
    return {
        **figures,
        **dict(zip(names, map(_figure, values), strict=True)),
        "steps": measured.steps.tolist(),
        "sigma": measured.sigma[measured.steps].astype(float).tolist(),
        "output_sqnr_db_by_step": [_figure(value) for value in prediction.by_step],
    }


def _figure(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _uniform(evidence: Evidence, means: tuple[float, float]) -> tuple[float, float]:
    """Output SQNR and picture PSNR of uniform bits at a cost, dB; between those of whole bits.

    The logarithm of the error is linear in the cost between two numbers of bits.
    """
    sides = [
        _neighbours(candidates, mean)
        for candidates, mean in zip((evidence.weights, evidence.activations), means, strict=True)
    ]
    total = np.zeros(2)
    for (weight, of_weight), (activation, of_activation) in product(*sides):
        if of_weight * of_activation == 0:
            continue
        found = evidence.predicted(_exempted(evidence, activation, weight))
        assert found is not None
        share = of_weight * of_activation
        total += share * np.array([found.output_sqnr_db, found.picture_psnr_db])
    return float(total[0]), float(total[1])


def _neighbours(candidates: Candidates, mean: float) -> list[tuple[int, float]]:
    """Numbers of bits beside a mean cost, each with its share."""
    if np.isnan(mean):  # nothing counts: any number
        return [(candidates.quantizers[-1].bits, 1.0)]
    numbers = sorted({quantizer.bits for quantizer in candidates.quantizers})
    layers = len(candidates.cost)
    costs = []
    for bits in numbers:
        option = candidates.of_bits(np.full(layers, bits))
        costs.append(candidates.mean(np.repeat(option[:, None], candidates.size.shape[1], axis=1)))
    position = float(np.interp(mean, costs, np.arange(len(numbers))))
    below = int(position)
    above = min(below + 1, len(numbers) - 1)
    return [(numbers[below], 1 - (position - below)), (numbers[above], position - below)]


def _exempted(evidence: Evidence, activation: int, weight: int) -> Chosen:
    ones = np.ones(len(evidence.names), int)
    uniform = Chosen.of_bits(evidence, activation=activation * ones, weight=weight * ones)
    return evidence.with_exceptions(uniform)


@dataclass(frozen=True)
class Lever:
    """Another value of one option, and what it changes.

    Attributes:
        option: its name.
        value: the next one, or the one before.
        output_db: change of the predicted SQNR of the guided output.
        weight_bytes: change of the weights' bytes.
        bits: change of the mean bits of weights and of activations.
    """

    option: str
    value: float
    output_db: float
    weight_bytes: int
    bits: tuple[float, float]


def levers(
    evidence: Evidence, options: Options, now: Mapping[str, Any], number: np.ndarray
) -> list[Lever]:
    """Neighbours of a recommendation; none where nothing is predicted.

    Args:
        evidence: that it was chosen from.
        options: that it was chosen by.
        now: what it comes to, of :func:`described`.
        number: of weights, shape (layer,).
    """
    if now["output_sqnr_db"] is None:
        return []
    found = []
    for name, step in _STEPS.items():
        value = getattr(options, name)
        if value is None and options.method != "target":
            value = _DEFAULTS.get(name)
        if value is None or name not in method_of(options).uses:
            continue
        for other in (value + step, value - step):
            try:
                chosen, _ = choose(evidence, replace(options, **{name: other}))
            except OptionError:  # there is no such mean
                continue
            if options.by_phase is False:
                chosen = replace(chosen, by_phase=None)
            then = described(evidence, chosen, number)
            if then["output_sqnr_db"] is not None:
                found.append(_lever(name, other, now, then))
    return found


def _lever(name: str, value: float, now: Mapping[str, Any], then: Mapping[str, Any]) -> Lever:
    weight, activation = (
        (then[key] or 0) - (now[key] or 0) for key in ("weight_bits", "activation_bits")
    )
    return Lever(
        option=name,
        value=value,
        output_db=then["output_sqnr_db"] - now["output_sqnr_db"],
        weight_bytes=then["weight_bytes"] - now["weight_bytes"],
        bits=(weight, activation),
    )

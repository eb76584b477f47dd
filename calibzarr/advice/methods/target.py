"""The fewest bits with which the guided output keeps an SQNR."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
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
from calibzarr.advice.methods.budget import reasons
from calibzarr.advice.options import Options
from calibzarr.errors import Call, Option, OptionError, StoreError
from calibzarr.quantization.allocation import feasible_mean
from calibzarr.quantization.configuration import UNQUANTIZED

_HALVINGS = 10  # of a mean: within a hundredth of a bit
_HALF_DB = float(10 * np.log10(2))


def _choose(evidence: Evidence, options: Options) -> Chosen:
    if options.output_db is None:
        raise OptionError("the method target needs ", Option("output_db"), "; give it")
    if evidence.measured is None:
        raise StoreError(
            "the method target needs sensitivities; measure them with: ",
            Call("sensitivity", ("STORE",)),
        )
    given = [options.weight_bits is not None, options.activation_bits is not None]
    if all(given):
        raise OptionError(
            "the method target takes one of ",
            Option("weight_bits"),
            " and ",
            Option("activation_bits"),
            ", and finds the other; leave one out",
        )
    sides, target = _Sides.unquantized(evidence), options.output_db
    if options.weight_bits is not None:
        sides = sides.with_weights(options.weight_bits)
    elif options.activation_bits is not None:
        sides = _least(
            sides.with_activations(options.activation_bits).with_weights, evidence.weights, target
        )
    else:  # halves of the error; activations make up for what halves at each call would be
        sides = _least(sides.with_weights, evidence.weights, target + _HALF_DB)
    if options.activation_bits is None:
        sides = _least(sides.with_activations, evidence.activations, target)
    if not sides.output_sqnr_db >= target:
        raise OptionError(
            Option("output_db"),
            f" {target:g} dB cannot be reached; the best is {sides.output_sqnr_db:.2f} dB",
        )
    return sides.chosen


@dataclass(frozen=True)
class _Sides:
    """Weights and activations as far as they are chosen."""

    evidence: Evidence
    chosen: Chosen

    @classmethod
    def unquantized(cls, evidence: Evidence) -> "_Sides":
        full = np.full(len(evidence.names), UNQUANTIZED)
        return cls(evidence, Chosen(full, None, np.full(len(full), -1)))

    def with_weights(self, mean: float) -> "_Sides":
        option = solve(self.evidence.weights, mean, "weight_bits")[:, 0]
        return _Sides(self.evidence, replace(self.chosen, weight=option))

    def with_activations(self, mean: float) -> "_Sides":
        candidates = self.evidence.activations
        bits = bits_of(candidates, solve(candidates, mean, "activation_bits"))[:, 0]
        changed = self.evidence.with_exceptions(replace(self.chosen, activation=bits))
        return _Sides(self.evidence, replace(self.chosen, activation=changed.activation))

    @cached_property
    def output_sqnr_db(self) -> float:
        found = self.evidence.predicted(self.chosen)
        assert found is not None
        return found.output_sqnr_db


def _least(of_mean: Callable[[float], _Sides], candidates: Candidates, target: float) -> _Sides:
    """What the least mean gives with which a target is met; what the greatest does if none."""
    rows, phases = np.nonzero(candidates.size)
    low = high = 0.0
    if rows.size:
        low, high = feasible_mean(candidates.cost[rows], candidates.size[rows, phases])
    best = of_mean(high)
    for _ in range(_HALVINGS if best.output_sqnr_db >= target else 0):
        middle = (low + high) / 2
        found = of_mean(middle)
        if found.output_sqnr_db >= target:
            best, high = found, middle
        else:
            low = middle
    return best


def _provenance(options: Options) -> dict[str, Any]:
    return {
        "output_db": options.output_db,
        "weight_bits": options.weight_bits,
        "activation_bits": options.activation_bits,
    }


METHOD = Method(
    choose=_choose,
    reasons=reasons,
    provenance=_provenance,
    uses=frozenset({"output_db", "weight_bits", "activation_bits", "clip"}),
)

"""The bits that make least error at a mean number of bits."""

import numpy as np

from calibzarr.advice.methods.base import (
    CHOICES,
    Chosen,
    Evidence,
    Layers,
    Method,
    QuantizationError,
    chosen_of,
    reason_of_block,
    with_blocks,
)
from calibzarr.advice.options import Options
from calibzarr.errors import Option, OptionError
from calibzarr.quantization.allocation import allocate, tie


def by_budget(error: QuantizationError, layers: Layers, mean_bits: float) -> Chosen:
    """The bits that make least error, weighted by operations, at a mean number of bits.

    The mean of ``activation`` and of ``by_phase`` is over the values of all calls, that of
    ``weight`` over weights.

    Args:
        error: expected.
        layers: of the model.
        mean_bits: upper bound of each mean.

    Raises:
        OptionError: if it is less than the fewest bits.
    """
    if not mean_bits >= CHOICES[0]:
        raise OptionError(
            Option("mean_bits"),
            f" must be {CHOICES[0]} or more, the fewest bits of a layer, got {mean_bits:g}",
        )
    linear, operations = layers.linear, layers.operations[:, None]
    values = np.where(linear[:, None], layers.values, 0)
    phases = values.shape[1]
    tied = layers.tied[:, None] * phases + np.arange(phases)  # within each phase
    share = values / np.maximum(values.sum(axis=1, keepdims=True), 1)  # of a layer's values
    phase_error = (operations * share)[..., None] * error.by_phase
    activation = _within(operations * error.overall, values.sum(axis=1), layers.tied, mean_bits)
    by_phase = _within(
        phase_error.reshape(-1, len(CHOICES)), values.ravel(), tied.ravel(), mean_bits
    ).reshape(values.shape)
    weight = _within(
        operations * error.weights, np.where(linear, layers.weights, 0), layers.tied, mean_bits
    )
    return Chosen(
        activation=with_blocks(activation, layers, output_too=False),
        by_phase=with_blocks(by_phase, layers, output_too=False),
        weight=with_blocks(weight, layers, output_too=False),
    )


def _within(error: np.ndarray, size: np.ndarray, tied: np.ndarray, mean_bits: float) -> np.ndarray:
    """Indices of the bits of rows, shape (row,); the fewest for rows of size 0."""
    chosen = np.zeros(len(size), dtype=int)
    counted = size > 0
    groups = np.unique(tied[counted], return_inverse=True)[1]
    costs = tie(size[counted].astype(np.float64), groups)
    budget = mean_bits * costs.sum() * (1 + 1e-12)  # whatever the rounding of the sum
    choice = allocate(tie(error[counted], groups), costs, np.array(CHOICES), budget)
    chosen[counted] = choice[groups]
    return chosen


def reasons_of_budget(
    error: QuantizationError, layers: Layers, chosen: Chosen, mean_bits: float
) -> list[str]:
    """For each layer, its share of the model's error at its bits and at those beside them."""
    shares = [
        (values, _shares(layers, rows, index), index)
        for values, rows, index in (
            ("activations", error.overall, chosen.activation),
            ("weights", error.weights, chosen.weight),
        )
    ]
    texts = []
    for row, linear in enumerate(layers.linear):
        text = reason_of_block(layers, row)
        if linear:
            text = "; ".join(
                f"{values}: {_quoted(share[row], int(index[row]))}"
                for values, share, index in shares
            )
        texts.append(f"a mean of {mean_bits:g} bits; {text}")
    return texts


def _shares(layers: Layers, error: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Error of each choice over the model's at the chosen bits, shape (layer, choice)."""
    weighted = layers.operations[:, None] * np.where(layers.linear[:, None], error, 0)
    total = chosen_of(weighted, index).sum()
    return np.asarray(weighted / (total if total > 0 else 1))


def _quoted(share: np.ndarray, index: int) -> str:
    text = f"{CHOICES[index]} bits make {share[index]:.2%} of the noise"
    beside = [other for other in (index - 1, index + 1) if 0 <= other < len(CHOICES)]
    others = " and ".join(f"{CHOICES[other]} bits {share[other]:.2%}" for other in beside)
    return f"{text}, {others} would"


def _mean_bits(options: Options) -> float:
    return options.mean_bits or 0.0  # None is refused by what the method needs


def _choose(evidence: Evidence, options: Options) -> Chosen:
    return by_budget(evidence.error, evidence.layers, _mean_bits(options))


def _reasons(evidence: Evidence, options: Options, chosen: Chosen) -> list[str]:
    return reasons_of_budget(evidence.error, evidence.layers, chosen, _mean_bits(options))


def _provenance(options: Options) -> dict[str, float]:
    return {"mean_bits": _mean_bits(options)}


METHOD = Method(
    choose=_choose, reasons=_reasons, provenance=_provenance, needs=frozenset({"mean_bits"})
)

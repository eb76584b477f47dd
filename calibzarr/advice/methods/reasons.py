"""Why a layer gets its bits, in words and with the figures that decided it."""

import numpy as np

from calibzarr.advice.methods.base import (
    CHOICES,
    CLIPPED_SHARE,
    NARROW,
    SPREAD,
    WIDE,
    Chosen,
    Layers,
    QuantizationError,
    clips_at_tails,
    decibels,
    range_rule,
)


def of_target(
    noise: QuantizationError,
    layers: Layers,
    chosen: Chosen,
    phases: list[str],
    activation_target: float,
    weight_target: float,
) -> list[str]:
    """For each layer, what its bits and those below them reach at the worst phase; dB."""
    reached = decibels(noise.worst)
    worst = np.where(np.isnan(noise.static), -1, noise.static).argmax(axis=1)
    weights = decibels(noise.weights)
    texts = []
    for row, index in enumerate(chosen.activation):
        text = _reached(reached[row], int(index), activation_target)
        text += f" in {phases[worst[row, index]]}, the worst phase"
        if layers.linear[row]:
            own = _reached(weights[row], int(chosen.weight[row]), weight_target)
            text += f"; weights: {own}"
        else:
            text += _of_block(layers, row)
        texts.append(text)
    return texts


def _reached(sqnr_db: np.ndarray, index: int, target: float) -> str:
    text = f"{CHOICES[index]} bits reach {sqnr_db[index]:.1f} dB"
    if index:
        text += f", {CHOICES[index - 1]} bits {sqnr_db[index - 1]:.1f} dB"
    if sqnr_db[index] < target:
        return f"{text}, short of {target:g} dB"
    return f"{text}, of {target:g} dB wanted"


def _of_block(layers: Layers, row: int) -> str:
    number = int(layers.inside[row].sum())
    return f"; the most bits of it and the {number} linear layers that it speaks for"


def of_budget(
    noise: QuantizationError, layers: Layers, chosen: Chosen, mean_bits: float
) -> list[str]:
    """For each layer, its share of the model's noise at its bits and at those beside them."""
    parts = []
    for what, rows, index in (
        ("activations", noise.overall, chosen.activation),
        ("weights", noise.weights, chosen.weight),
    ):
        own = layers.operations[:, None] * np.where(layers.linear[:, None], rows, 0)
        total = np.take_along_axis(own, index[:, None], axis=1).sum()
        share = own / (total if total > 0 else 1)
        parts.append(
            [f"{what}: {_shares(share[row], int(index[row]))}" for row in range(len(share))]
        )
    mean = f"a mean of {mean_bits:g} bits; "
    return [
        mean + (f"{both[0]}; {both[1]}" if layers.linear[row] else _of_block(layers, row)[2:])
        for row, both in enumerate(zip(*parts, strict=True))
    ]


def _shares(share: np.ndarray, index: int) -> str:
    text = f"{CHOICES[index]} bits make {share[index]:.2%} of the noise"
    beside = [place for place in (index - 1, index + 1) if 0 <= place < len(CHOICES)]
    others = " and ".join(f"{CHOICES[place]} bits {share[place]:.2%}" for place in beside)
    return f"{text}, {others} would"


def of_range(
    value_min: np.ndarray, value_max: np.ndarray, std: np.ndarray, p01: np.ndarray, p99: np.ndarray
) -> list[str]:
    """For each layer, the ranges that the old rule looks at; all of shape (layer,)."""
    central = p99 - p01
    bits = range_rule(std, p01, p99)
    clips = clips_at_tails(value_min, value_max, p01, p99)
    texts = []
    for row, own in enumerate(central):
        border = next((f"over {limit:g}" for limit in (WIDE, NARROW) if own > limit), None)
        text = f"p99 - p01 is {own:.3g}, {border or f'not over {NARROW:g}'}"
        if std[row] > SPREAD * own:
            text += f", and the standard deviation {std[row]:.3g} is over {SPREAD:g} of that"
        text += f": {bits[row]} bits"
        if clips[row]:
            share = own / (value_max[row] - value_min[row])
            text += f"; it is {share:.2f} of the range, under {CLIPPED_SHARE:g}: clipped there"
        texts.append(text)
    return texts

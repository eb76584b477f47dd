"""The rule of the scripts that calibzarr replaces, from the ranges of activations alone."""

import numpy as np

from calibzarr.advice.methods.base import CHOICES, Chosen, Evidence, Method
from calibzarr.advice.options import Options
from calibzarr.quantization.histograms import TAILS, Histograms

WIDE, NARROW = 10.0, 5.0  # activation units
SPREAD = 0.5  # standard deviation over the range from p01 to p99
CLIPPED_SHARE = 0.9  # that range over the whole one, below which the rule clips there


def range_rule(std: np.ndarray, p01: np.ndarray, p99: np.ndarray) -> np.ndarray:
    """Bits by the ranges of activations.

    A range from p01 to p99 over 10 takes 8 bits, over 5 takes 6, else 4; a standard deviation
    of more than half of that range adds 2, up to 8.

    Args:
        std: standard deviation, shape (...), activation units, as the others.
        p01: 1st percentile, shape (...).
        p99: 99th percentile, shape (...).

    Returns:
        Bits, shape (...).
    """
    central = p99 - p01
    bits = np.where(central > WIDE, 8, np.where(central > NARROW, 6, 4))
    return np.where(std > SPREAD * central, np.minimum(bits + 2, 8), bits)


def by_range(bits: np.ndarray, phase_bits: np.ndarray) -> Chosen:
    """The bits of the rule, for activations and, as it did, for weights as well.

    Args:
        bits: of :func:`range_rule` for all steps together, shape (layer,).
        phase_bits: the same by phase, shape (layer, phase).
    """
    activation, by_phase = (np.searchsorted(CHOICES, array) for array in (bits, phase_bits))
    return Chosen(activation, by_phase, activation)


def clips_at_tails(
    value_min: np.ndarray, value_max: np.ndarray, p01: np.ndarray, p99: np.ndarray
) -> np.ndarray:
    """Where the rule clips at p01 and p99: where these span less than 0.9 of the range."""
    return np.asarray(p99 - p01 < CLIPPED_SHARE * (value_max - value_min))


def _clips(rows: Histograms) -> np.ndarray:
    return clips_at_tails(rows.value_min, rows.value_max, *rows.tails)


def clipping(rows: Histograms) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the clipping ranges of the rule, shapes (...), activation units."""
    clips, (p01, p99) = _clips(rows), rows.tails
    return np.where(clips, p01, rows.value_min), np.where(clips, p99, rows.value_max)


def fractions(rows: Histograms) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the values below these ends, whatever a bin's width; shapes (...)."""
    clips = _clips(rows)
    return np.where(clips, TAILS[0], 0), np.where(clips, TAILS[1], 1)


def reasons_of_range(
    value_min: np.ndarray,
    value_max: np.ndarray,
    std: np.ndarray,
    p01: np.ndarray,
    p99: np.ndarray,
    bits: np.ndarray,
) -> list[str]:
    """For each layer, the ranges that the rule looks at, and its bits; all of shape (layer,)."""
    clips, whole = clips_at_tails(value_min, value_max, p01, p99), value_max - value_min
    texts = []
    for row, central in enumerate(p99 - p01):
        border = next((f"over {limit:g}" for limit in (WIDE, NARROW) if central > limit), None)
        text = f"p99 - p01 is {central:.3g}, {border or f'not over {NARROW:g}'}"
        if std[row] > SPREAD * central:
            text += f", and the standard deviation {std[row]:.3g} is over {SPREAD:g} of that"
        text += f": {bits[row]} bits"
        if clips[row]:
            share = central / whole[row]
            text += f"; it is {share:.2f} of the range, under {CLIPPED_SHARE:g}: clipped there"
        texts.append(text)
    return texts


def _choose(evidence: Evidence, _: Options) -> Chosen:
    overall, by_phase = (
        range_rule(rows.std, *rows.tails) for rows in (evidence.overall, evidence.by_phase)
    )
    return by_range(overall, by_phase)


def _reasons(evidence: Evidence, _: Options, chosen: Chosen) -> list[str]:
    rows, bits = evidence.overall, np.take(CHOICES, chosen.activation)
    return reasons_of_range(rows.value_min, rows.value_max, rows.std, *rows.tails, bits)


def _provenance(_: Options) -> dict[str, str]:
    return {"clip": "p01 and p99"}


METHOD = Method(
    choose=_choose,
    reasons=_reasons,
    provenance=_provenance,
    clipping=clipping,
    fractions=fractions,
)

"""The rule of the scripts that calibzarr replaces, from the ranges of activations alone."""

import numpy as np

from calibzarr.advice.methods.base import Chosen, Evidence, Method
from calibzarr.advice.options import Options
from calibzarr.quantization.histograms import Histograms

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
    rows = evidence.overall
    bits = range_rule(rows.std, *rows.tails)
    return Chosen.of_bits(evidence, activation=bits, weight=bits)


def _reasons(evidence: Evidence, _: Options, __: Chosen) -> list[str]:
    rows = evidence.overall
    return reasons_of_range(
        rows.value_min, rows.value_max, rows.std, *rows.tails, range_rule(rows.std, *rows.tails)
    )


def _provenance(_: Options) -> dict[str, str]:
    return {"clip": "p01 and p99"}


METHOD = Method(
    choose=_choose,
    reasons=_reasons,
    provenance=_provenance,
    uses=frozenset(),
    clipping=clipping,
    warning="the old rule of ranges loses the picture (8.7 to 10 dB of PSNR with the embedded "
    "model); it is there for comparison",
)

"""What each number of bits costs, and the error that it makes of the guided output."""

from collections.abc import Sequence

import numpy as np

from calibzarr.quantization.prediction import Measured
from calibzarr.quantization.quantizers import QUANTIZERS, Kind, Quantizer
from calibzarr.quantization.sensitivity import counted_at_nearest, nearest_steps


def options(kind: Kind, family: str) -> tuple[Quantizer, ...]:
    """Quantizers to choose from, by rising cost.

    Args:
        kind: what they quantize.
        family: ``tensor`` or ``token`` of activations; ``tensor``, ``row`` or ``mlx`` of weights.
    """
    chosen = (q for q in QUANTIZERS if (q.quantizes, q.scheme.partition("-")[0]) == (kind, family))
    return tuple(sorted(chosen, key=lambda quantizer: quantizer.cost(1)))


def exact_bits(quantizers: Sequence[Quantizer], features: np.ndarray) -> np.ndarray:
    """Bits of a value with its scales.

    Args:
        quantizers: to choose from.
        features: width of each layer's rows, shape (layer,).

    Returns:
        Shape (layer, option); infinite where a quantizer does not fit.
    """
    bits = [
        [q.cost(width) if q.fits(width) else np.inf for q in quantizers]
        for width in features.tolist()
    ]
    return np.array(bits).reshape(len(features), len(quantizers))


def error_energy(measured: Measured) -> np.ndarray:
    """Energy of the error that each quantizer alone makes over a sampling.

    A call k of width D counts as the nearest measured one of its phase: the sum over k of
    D P[s(k)] S[l, s(k), q], with P the output's power and S the squared error over it.

    Returns:
        Shape (layer, quantizer), latent units squared; NaN where there is no such quantization.
    """
    widths = counted_at_nearest(measured.widths, measured.steps).sum(axis=0)
    return np.asarray(np.einsum("s,lsq->lq", widths * measured.step_power, measured.error))


def amplified_error_energy(measured: Measured) -> np.ndarray | None:
    """The same by phase, of what is left at the end: every call counts with its amplification.

    Returns:
        Shape (layer, phase, quantizer), of the phases that have calls; None if one of them has no
        measured call.
    """
    if (nearest_steps(measured.num_steps, measured.steps) < 0).any():
        return None
    widths = counted_at_nearest(measured.widths * measured.amplification, measured.steps)
    return np.asarray(np.einsum("ps,lsq->lpq", widths * measured.step_power, measured.error))


def non_increasing(error: np.ndarray) -> np.ndarray:
    """The least error of an option and those that cost less, shape (..., option).

    Args:
        error: by rising cost; NaN where there is no such option, which stays.
    """
    least = np.minimum.accumulate(np.where(np.isnan(error), np.inf, error), axis=-1)
    return np.where(np.isnan(error), np.nan, least)

"""Rounding weights one input feature after another, each time making up for the error so far."""

import numpy as np
from scipy import linalg

from calibzarr.quantization.quantizers import on_levels

DAMPING = 0.05  # of the Hessian's mean diagonal; 0.02 and 0.1 lose 0.3 dB of SQNR with `tiny`
_GROWTH = 4.0
_BLOCK = 128  # features whose errors reach the later ones together, as one matrix product


def gptq(
    weight: np.ndarray,
    level: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    bits: int,
    hessian: np.ndarray,
    damping: float = DAMPING,
) -> np.ndarray:
    """Levels that make less error on a layer's inputs than rounding to the nearest ones.

    GPTQ (Frantar et al. 2022, arXiv 2210.17323) on a grid that is given: features in the order of
    their Hessian's falling diagonal, groups as they are. Where Cholesky's decomposition fails the
    damping grows. Features whose inputs are always 0 keep their levels.

    Args:
        weight: shape (output, feature).
        level: of rounding to the nearest, from 0 to ``2**bits - 1``, of the same shape.
        scale: of each group of features, shape (output, group); a weight is scale * level + bias.
        bias: likewise.
        bits: of a weight.
        hessian: sum of x x^T over the layer's inputs x, weighted or not, shape (feature, feature).
        damping: added to the diagonal, a fraction of its mean.

    Returns:
        Levels, shape (output, feature), uint8.

    Raises:
        ValueError: if the Hessian is not finite.
    """
    diagonal = np.diagonal(hessian)
    if not np.isfinite(hessian).all():
        raise ValueError("the Hessian is not finite")
    found = level.astype(np.uint8)
    order = np.argsort(-diagonal, kind="stable")
    order = order[diagonal[order] > 0]
    if not len(order):
        return found
    inverse = _inverse_factor(hessian, order, damping)
    group = order // (weight.shape[1] // scale.shape[1])
    # A feature is a row from here on, so that it lies together in memory.
    remaining = np.ascontiguousarray(weight.T[order], dtype=np.float32)
    scales, biases = (np.asarray(part, np.float32).T for part in (scale, bias))
    highest = np.float32(2**bits - 1)
    for start in range(0, len(order), _BLOCK):
        stop = min(start + _BLOCK, len(order))
        errors = np.empty((stop - start, len(weight)), np.float32)
        for i in range(start, stop):
            its_scale, its_bias = scales[group[i]], biases[group[i]]
            nearest = np.clip(np.rint((remaining[i] - its_bias) / its_scale), 0, highest)
            found[:, order[i]] = nearest
            error = (remaining[i] - (its_scale * nearest + its_bias)) / inverse[i, i]
            remaining[i + 1 : stop] -= inverse[i, i + 1 : stop, None] * error
            errors[i - start] = error
        remaining[stop:] -= inverse[start:stop, stop:].T @ errors
    return found


def weighted_error(
    weight: np.ndarray, level: np.ndarray, scale: np.ndarray, bias: np.ndarray, hessian: np.ndarray
) -> float:
    """Squared error of a layer's outputs, summed over the inputs that the Hessian is of.

    Args:
        weight: shape (output, feature).
        level: of the same shape; see :func:`gptq`.
        scale: shape (output, group).
        bias: likewise.
        hessian: shape (feature, feature).
    """
    error = on_levels(level, scale, bias) - weight
    return float(((error @ hessian) * error).sum(dtype=np.float64))


def _inverse_factor(hessian: np.ndarray, order: np.ndarray, damping: float) -> np.ndarray:
    """U, upper triangular, with U^T U the inverse of the damped Hessian of some features."""
    last_first = np.ix_(order[::-1], order[::-1])  # so that the factor is upper triangular
    added = damping * float(np.diagonal(hessian)[order].mean(dtype=np.float64))
    while True:
        damped = hessian[last_first].astype(np.float64, order="F")  # worked on in place
        damped[np.diag_indices_from(damped)] += added
        try:
            factor = linalg.cholesky(damped, lower=True, overwrite_a=True, check_finite=False)
            break
        except linalg.LinAlgError:
            added = max(_GROWTH * added, float(np.finfo(np.float64).tiny))
    inverse, _ = linalg.lapack.dtrtri(factor, lower=1, overwrite_c=1)
    return np.asarray(inverse[::-1, ::-1], dtype=np.float32)

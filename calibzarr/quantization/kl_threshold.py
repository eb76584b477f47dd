"""The clipping threshold that loses least information: NumPy in, NumPy out."""

import numpy as np

from calibzarr.statistics.histogram import LogBins

_LINEAR_BINS = 2048
_THRESHOLDS = 96
_ROWS = 128  # histograms whose divergences are computed together


def linear_magnitudes(counts: np.ndarray, bins: LogBins, reach: np.ndarray) -> np.ndarray:
    """Histograms of magnitudes with 2048 equal bins, values spread evenly within a bin of before.

    Args:
        counts: shape (..., bin), integer.
        bins: of ``counts``.
        reach: greatest magnitude, shape (...), activation units.

    Returns:
        Shape (..., 2048), float64.
    """
    centre = bins.per_sign
    middle = counts[..., [centre]]
    folded = np.concatenate(
        [middle, counts[..., centre + 1 :] + counts[..., centre - 1 :: -1]], axis=-1
    )
    below = np.concatenate([np.zeros_like(middle), folded.cumsum(axis=-1)], axis=-1)
    edges = np.append(0, bins.high[centre:])  # the last is infinite
    wanted = np.nan_to_num(reach)[..., None] * np.linspace(0, 1, _LINEAR_BINS + 1)
    index = np.clip(np.searchsorted(edges, wanted, side="right") - 1, 0, len(edges) - 2)
    width = np.where(np.isinf(edges[index + 1]), 1, edges[index + 1] - edges[index])
    share = np.clip((wanted - edges[index]) / width, 0, 1)
    inside = np.take_along_axis(folded, index, axis=-1)
    cumulative = np.take_along_axis(below, index, axis=-1) + share * inside
    cumulative[..., -1] = below[..., -1]  # whatever shares the bin of the greatest
    return np.diff(cumulative, axis=-1)


def kl_threshold(magnitudes: np.ndarray, reach: np.ndarray, bits: int) -> np.ndarray:
    """The threshold that loses least information, as TensorRT's entropy calibration finds it.

    The distribution up to a threshold, all that is beyond counted into its last bin, is compared
    with itself at ``2**(bits - 1)`` levels of magnitude by Kullback-Leibler divergence (Migacz,
    "8-bit inference with TensorRT", GTC 2017). 96 thresholds are tried.

    Args:
        magnitudes: of :func:`linear_magnitudes`, shape (..., 2048).
        reach: greatest magnitude, shape (...), activation units.
        bits: of the quantizer.

    Returns:
        Shape (...), activation units; NaN where nothing was counted.
    """
    num_levels = 2 ** (bits - 1)
    rows = magnitudes.reshape(-1, _LINEAR_BINS)
    first = max(num_levels, _LINEAR_BINS // _THRESHOLDS)
    kept = np.unique(np.linspace(first, _LINEAR_BINS, _THRESHOLDS).astype(int))
    divergence = np.empty((len(rows), len(kept)))
    for start in range(0, len(rows), _ROWS):
        block = slice(start, start + _ROWS)
        for index, number in enumerate(kept):
            divergence[block, index] = _divergence(rows[block], int(number), num_levels)
    threshold = kept[divergence.argmin(axis=1)] / _LINEAR_BINS * np.ravel(reach)
    threshold = np.where(rows.sum(axis=1) > 0, threshold, np.nan)
    return threshold.reshape(magnitudes.shape[:-1])


def _divergence(magnitudes: np.ndarray, number: int, num_levels: int) -> np.ndarray:
    """Divergence of the first ``number`` bins from their quantized selves, shape (row,)."""
    inside = magnitudes[:, :number]
    reference = inside.copy()
    reference[:, -1] += magnitudes[:, number:].sum(axis=1)
    starts = np.arange(num_levels) * number // num_levels
    sizes = np.diff(np.append(starts, number))
    filled = inside > 0
    level_mass = np.add.reduceat(inside, starts, axis=1)
    level_filled = np.maximum(np.add.reduceat(filled, starts, axis=1, dtype=np.int64), 1)
    candidate = np.repeat(level_mass / level_filled, sizes, axis=1) * filled
    reference = _smoothed(reference)
    return np.asarray((reference * np.log(reference / _smoothed(candidate))).sum(axis=1))


def _smoothed(distribution: np.ndarray) -> np.ndarray:
    """A distribution of sum 1 without a zero, so that its divergence is finite."""
    total = np.maximum(distribution.sum(axis=1, keepdims=True), 1e-30)
    share = distribution / total + 1e-9
    return np.asarray(share / share.sum(axis=1, keepdims=True))

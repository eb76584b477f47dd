"""Contiguous groups of steps that can share a shift: NumPy in, NumPy out."""

import numpy as np

from calibzarr.errors import Option, OptionError

_BLOCK = 1 << 18  # values that are held in float64 at once: few, so that they fit a cache


def gram(
    feature_low: np.ndarray, feature_high: np.ndarray, scale: np.ndarray | None = None
) -> np.ndarray:
    """Inner products of the steps' shifts, over all layers and features together.

    A shift is the middle of a feature's range at a step, ``(low + high) / 2`` (HTG,
    arXiv 2503.06930). Shifts are taken relative to their mean over the steps, which changes no
    distance between steps and keeps large constant shifts from drowning small changes.

    Args:
        feature_low: least value of each feature, shape (layer, step, feature), activation units;
            read in blocks of layers. A feature that is not finite at some step counts for
            nothing, as those beyond a layer's width.
        feature_high: greatest value, likewise.
        scale: what each layer's shifts are divided by, so that layers of large activations do
            not decide alone, shape (layer,), activation units; by default the root mean square
            of the layer's ranges, over steps and features. A layer of scale 0 counts for
            nothing: without a range there is nothing to quantize.

    Returns:
        Shape (step, step), float64, symmetric, without unit.

    Raises:
        ValueError: if the shapes disagree.
    """
    shape = tuple(feature_low.shape)
    if len(shape) != 3 or tuple(feature_high.shape) != shape:
        raise ValueError(
            "low and high must both have shape (layer, step, feature), "
            f"got {shape} and {tuple(feature_high.shape)}"
        )
    layers, steps, features = shape
    if scale is not None and np.shape(scale) != (layers,):
        raise ValueError(f"scale must have shape ({layers},), got {np.shape(scale)}")
    products = np.zeros((steps, steps))
    block = max(1, _BLOCK // max(1, steps * features))
    for start in range(0, layers, block):
        layers_of_block = slice(start, start + block)
        low = np.asarray(feature_low[layers_of_block], dtype=np.float64)
        high = np.asarray(feature_high[layers_of_block], dtype=np.float64)
        finite = np.asarray((np.isfinite(low) & np.isfinite(high)).all(axis=1, keepdims=True))
        divisor = _range(low, high, finite) if scale is None else np.asarray(scale)[layers_of_block]
        shift = np.add(low, high, out=np.zeros_like(low), where=finite)
        shift -= shift.mean(axis=1, keepdims=True)
        shift *= (0.5 / np.where(divisor > 0, divisor, np.inf))[:, None, None]
        products += (shift @ shift.swapaxes(1, 2)).sum(axis=0)
    return products


def _range(low: np.ndarray, high: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """Root mean square of each layer's feature ranges, shape (layer,)."""
    width = np.subtract(high, low, out=np.zeros_like(low), where=finite)
    count = low.shape[1] * finite.sum(axis=(1, 2))
    return np.asarray(np.sqrt(np.einsum("lsf,lsf->l", width, width) / np.maximum(count, 1)))


def contiguous_groups(products: np.ndarray, num_groups: int) -> np.ndarray:
    """Divide the steps into groups of neighbours that differ least within each group.

    Minimises the sum of squared distances of the steps' shifts to the mean of their group. HTG
    (arXiv 2503.06930) merges the nearest neighbours greedily; this is the optimum, by dynamic
    programming in ``num_groups * step**2``.

    Args:
        products: inner products of the steps, from ``gram``, shape (step, step).
        num_groups: how many groups; none is empty.

    Returns:
        Index of each group's first step, increasing from 0, shape (group,). Of equally good
        divisions, one.

    Raises:
        OptionError: if there are fewer steps than groups, or fewer groups than 1.
        ValueError: if ``products`` is not square and finite.

    >>> shifts = np.array([[0.0], [0.1], [5.0], [5.2], [9.0]])
    >>> contiguous_groups(shifts @ shifts.T, 3)
    array([0, 2, 4])
    """
    products = _square(products)
    steps = len(products)
    if not 1 <= num_groups <= steps:
        raise OptionError(
            Option("groups"), f" must be from 1 to the number of steps, {steps}, got {num_groups}"
        )
    spread = _interval_spread(products)
    best = spread[0]  # of the steps before each index, in one group
    firsts = []
    for _ in range(num_groups - 1):
        total = best[:, None] + spread
        firsts.append(total.argmin(axis=0))  # of the last group
        best = total.min(axis=0)
    first, end = np.zeros(num_groups, dtype=np.int64), steps
    for group in range(num_groups - 1, 0, -1):
        end = first[group] = firsts[group - 1][end]
    return first


def _square(products: np.ndarray) -> np.ndarray:
    """Inner products as float64, checked."""
    products = np.asarray(products, dtype=np.float64)
    if products.ndim != 2 or products.shape[0] != products.shape[1]:
        raise ValueError(f"products must have shape (step, step), got {products.shape}")
    if not np.isfinite(products).all():
        raise ValueError("products must be finite")
    return products


def _interval_spread(products: np.ndarray) -> np.ndarray:
    """Spread of the steps from a first to before an end, shape (first, end); else infinity."""
    steps = len(products)
    prefix = np.zeros((steps + 1, steps + 1))
    prefix[1:, 1:] = products.cumsum(axis=0).cumsum(axis=1)
    corner = prefix.diagonal()
    inside = corner[:, None] + corner - prefix - prefix.T
    squares = np.concatenate([[0.0], products.diagonal().cumsum()])
    size = np.arange(steps + 1) - np.arange(steps + 1)[:, None]
    spread = squares - squares[:, None] - inside / np.maximum(size, 1)
    return np.where(size > 0, np.maximum(spread, 0), np.inf)

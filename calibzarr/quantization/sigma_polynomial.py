"""Clipping as a polynomial in sigma: NumPy in, NumPy out."""

from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.polynomial import polynomial

from calibzarr.errors import Option, OptionError, at_least

_PER_INTERVAL = 16  # points at which two neighbouring steps and the line between are compared
_HIGHEST_DEGREE = 8  # powers of higher ones lose too many digits
_EXCHANGES = 100  # a few suffice; each brings the best polynomial nearer


@dataclass(frozen=True)
class SigmaPolynomial:
    """Polynomials in sigma, one for each layer, that never clip more than was asked.

    Attributes:
        coefficients: by increasing power, zero beyond the degree, shape (layer, power),
            activation units; NaN for a layer without clipping values.
        degree: shape (layer,); 0 for a layer without clipping values.
        excess: most by which the polynomial exceeds the asked clipping and the lines between,
            shape (layer,), activation units; nowhere more, seldom less.
        met: whether that is within the tolerance, shape (layer,).
        sigma_min: least sigma at which clipping was asked.
        sigma_max: greatest, likewise.
    """

    coefficients: np.ndarray
    degree: np.ndarray
    excess: np.ndarray
    met: np.ndarray
    sigma_min: float
    sigma_max: float

    def __call__(self, sigma: np.ndarray | float) -> np.ndarray:
        """Clipping of every layer, shape (layer, ...), as ``evaluate`` gives it."""
        return evaluate(self.coefficients, sigma, self.sigma_min, self.sigma_max)


def fit(
    sigma: np.ndarray, clip: np.ndarray, tolerance: float, max_degree: int = 4
) -> SigmaPolynomial:
    """Fit the polynomial of lowest degree that bounds each layer's clipping closely from above.

    Others fit such polynomials by least squares, which passes below about half of the values
    and so clips them more than was asked. An upper envelope is nowhere below the values, nor
    below the straight lines between neighbours; of its degree, this is the one of least
    greatest excess: the best uniform approximation, by the exchange algorithm (Remez 1934),
    lifted by its error. For lower clipping values, take ``-fit(sigma, -clip, ...)``.

    Args:
        sigma: noise levels in any order, shape (step,).
        clip: clipping values, positive or negative, shape (layer, step), activation units. A
            layer with a NaN gets none but NaN.
        tolerance: greatest excess over the asked clipping, as a fraction of the layer's greatest
            magnitude of it.
        max_degree: highest degree to try; at most one less than there are different sigmas is
            tried. Where none meets the tolerance, a higher degree is taken only if it lessens
            the excess by as much, and nowhere exceeds the greatest of the steps by more.

    Returns:
        Polynomials of ``max_degree + 1`` coefficients, for sigma and not scaled. Their rounding
        is allowed for, so evaluating them in float64 by Horner's scheme is safe.

    Raises:
        OptionError: if ``tolerance`` is negative, or ``max_degree`` not from 0 to 8.
        ValueError: if the shapes disagree, or a value is infinite.

    >>> envelope = fit(np.array([1.0, 0.5, 0.0]), np.array([[5.0, 4.0, 3.0]]), tolerance=0.01)
    >>> envelope.coefficients.round(6)
    array([[3., 2., 0., 0., 0.]])
    """
    sigma, clip = np.asarray(sigma, dtype=np.float64), np.asarray(clip, dtype=np.float64)
    _check(sigma, clip, tolerance, max_degree)
    asked, sigma = _one_value_per_sigma(clip, sigma)
    grid, asked = _between(sigma, asked)
    largest = np.abs(asked).max(axis=1)
    result = SigmaPolynomial(
        coefficients=np.full((len(clip), max_degree + 1), np.nan),
        degree=np.zeros(len(clip), dtype=np.int64),
        excess=np.full(len(clip), np.nan),
        met=np.zeros(len(clip), dtype=bool),
        sigma_min=float(sigma[0]),
        sigma_max=float(sigma[-1]),
    )
    least = np.full(len(clip), np.inf)
    open_layers = np.flatnonzero(np.isfinite(largest))
    for degree in range(min(max_degree, len(sigma) - 1) + 1):
        coefficients, excess = _envelope(grid, asked[open_layers], degree)
        allowed = tolerance * largest[open_layers]
        highest = polynomial.polyval(grid, coefficients.T).max(axis=1)
        gains = excess < least[open_layers] - allowed
        bounded = highest <= asked[open_layers].max(axis=1) + allowed
        better = (excess <= allowed) | (gains & bounded)
        layers = open_layers[better]
        result.coefficients[layers] = 0.0
        result.coefficients[layers, : degree + 1] = coefficients[better]
        result.degree[layers] = degree
        result.excess[layers] = least[layers] = excess[better]
        result.met[layers] = excess[better] <= tolerance * largest[layers]
        open_layers = open_layers[~result.met[open_layers]]
        if not len(open_layers):
            break
    return result


def evaluate(
    coefficients: np.ndarray, sigma: np.ndarray | float, sigma_min: float, sigma_max: float
) -> np.ndarray:
    """Evaluate polynomials in sigma, held constant beyond the range that was collected.

    Args:
        coefficients: by increasing power, shape (power,) or (layer, power), activation units.
        sigma: noise levels, any shape.
        sigma_min: lower end of the collected range.
        sigma_max: upper end of the collected range.

    Returns:
        Shape of ``sigma``, after that of the layers, activation units.

    >>> evaluate(np.array([3.0, 2.0]), [-1.0, 0.5, 7.0], 0.0, 1.0)
    array([3., 4., 5.])
    """
    return np.asarray(
        polynomial.polyval(np.clip(sigma, sigma_min, sigma_max), np.asarray(coefficients).T)
    )


def _check(sigma: np.ndarray, clip: np.ndarray, tolerance: float, max_degree: int) -> None:
    at_least("tolerance", tolerance, 0)
    if not 0 <= max_degree <= _HIGHEST_DEGREE:
        raise OptionError(
            Option("max_degree"), f" must be from 0 to {_HIGHEST_DEGREE}, got {max_degree}"
        )
    if sigma.size == 0 or clip.ndim != 2 or sigma.shape != clip.shape[1:]:
        raise ValueError(
            "clip must have shape (layer, step) and sigma (step,) with a step or more, "
            f"got {clip.shape} and {sigma.shape}"
        )
    if not np.isfinite(sigma).all() or np.isinf(clip).any():
        raise ValueError("sigma must be finite, and clip finite or NaN")


def _one_value_per_sigma(clip: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Greatest clipping at each different sigma, shape (layer, step), by increasing sigma."""
    order = np.argsort(sigma, kind="stable")
    different, first = np.unique(sigma[order], return_index=True)
    return np.maximum.reduceat(clip[:, order], first, axis=1), different


def _between(sigma: np.ndarray, clip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sigmas and the clipping asked at and between them, shapes (point,) and (layer, point)."""
    share = np.arange(_PER_INTERVAL) / _PER_INTERVAL
    grid = (sigma[:-1, None] + np.diff(sigma)[:, None] * share).ravel()
    lines = clip[:, :-1, None] + np.diff(clip, axis=1)[:, :, None] * share
    lines = lines.reshape(len(clip), -1)
    return np.append(grid, sigma[-1]), np.concatenate([lines, clip[:, -1:]], axis=1)


def _envelope(grid: np.ndarray, asked: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Upper envelopes of the degree with the least greatest excess, and a bound of that excess.

    Shapes (layer, power) and (layer,).
    """
    if degree == 0:
        greatest = asked.max(axis=1)
        return greatest[:, None], greatest - asked.min(axis=1)
    middle, half = (grid[0] + grid[-1]) / 2, (grid[-1] - grid[0]) / 2
    coefficients = _best_uniform((grid - middle) / half, asked, degree)
    coefficients = coefficients @ _change_of_variable(degree, middle, half)
    coefficients[:, 0] += _greatest_shortfall(coefficients, grid, asked)
    sizes = np.abs(coefficients) @ np.abs(grid).max() ** np.arange(degree + 1)
    rounding = 4 * (degree + 1) * np.finfo(np.float64).eps * (sizes + np.abs(asked).max(axis=1))
    coefficients[:, 0] += rounding
    return coefficients, _greatest_shortfall(-coefficients, grid, -asked) + rounding


def _greatest_shortfall(
    coefficients: np.ndarray, grid: np.ndarray, asked: np.ndarray
) -> np.ndarray:
    """Bound of how far the polynomials are below what is asked, at and between points."""
    shortfall = asked - polynomial.polyval(grid, coefficients.T)
    between = np.maximum(shortfall[:, :-1], shortfall[:, 1:]) + _bow(-coefficients, grid)
    return np.asarray(between.max(axis=1))


def _bow(coefficients: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Bound of how far the polynomials rise above their chords, shape (layer, interval).

    At most an eighth of the squared width times the greatest negative curvature, which is at
    most that at the ends and its own rise above its chord.
    """
    if coefficients.shape[1] < 3:
        return np.zeros((len(coefficients), len(grid) - 1))
    curvature = -polynomial.polyder(coefficients, 2, axis=1)
    at_points = polynomial.polyval(grid, curvature.T)
    greatest = np.maximum(at_points[:, :-1], at_points[:, 1:]) + _bow(curvature, grid)
    return np.asarray(greatest.clip(min=0) * np.diff(grid) ** 2 / 8)


def _change_of_variable(degree: int, middle: float, half: float) -> np.ndarray:
    """Powers of ``(sigma - middle) / half`` in powers of sigma, shape (power, power)."""
    powers = range(degree + 1)
    return np.array(
        [[comb(k, j) * (-middle) ** max(k - j, 0) / half**k for j in powers] for k in powers]
    )


def _best_uniform(points: np.ndarray, values: np.ndarray, degree: int) -> np.ndarray:
    """Polynomials of least greatest distance to the values, shape (layer, power).

    Each is exact, but for a distance of alternating sign, at ``degree + 2`` of the points; the
    point of the greatest distance takes the place of a neighbour until none is greater. Points
    increase from -1 to 1, shape (point,); values have shape (layer, point).
    """
    powers = polynomial.polyvander(points, degree)
    alternating = (-1.0) ** np.arange(degree + 2)
    spread_out = np.linspace(0, len(points) - 1, degree + 2).astype(np.int64)
    reference = np.tile(spread_out, (len(values), 1))
    coefficients = np.empty((len(values), degree + 1))
    open_layers = np.arange(len(values))
    negligible = 1e-12 * np.abs(values).max(axis=1)
    for _ in range(_EXCHANGES):
        chosen, target = reference[open_layers], values[open_layers]
        system = np.empty((len(chosen), degree + 2, degree + 2))
        system[:, :, :-1], system[:, :, -1] = powers[chosen], alternating
        right = np.take_along_axis(target, chosen, axis=1)
        solution = _solved(system, right)
        coefficients[open_layers] = solution[:, :-1]
        distance = target - solution[:, :-1] @ powers.T
        farthest = np.abs(distance).argmax(axis=1)
        signed = np.take_along_axis(distance, farthest[:, None], axis=1)[:, 0]
        level = solution[:, -1]
        better = np.abs(signed) > np.abs(level) * (1 + 1e-6) + negligible[open_layers]
        open_layers = open_layers[better]
        if not len(open_layers):
            break
        reference[open_layers] = _exchanged(
            chosen[better], farthest[better], (signed[better] > 0) == (level[better] > 0)
        )
    return coefficients


def _solved(systems: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solutions of the linear systems, the shortest where sigmas are too close to tell apart."""
    try:
        return np.linalg.solve(systems, right[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        return np.asarray((np.linalg.pinv(systems) @ right[:, :, None])[:, :, 0])


def _exchanged(reference: np.ndarray, new: np.ndarray, as_first: np.ndarray) -> np.ndarray:
    """Put the new points in the place of neighbours, so that signs go on alternating.

    Args:
        reference: positions of points, increasing, shape (layer, extremum).
        new: positions to take in, shape (layer,).
        as_first: whether the distance there has the sign of that at the first, shape (layer,).
    """
    merged = np.sort(np.concatenate([reference, new[:, None]], axis=1), axis=1)
    index = (reference < new[:, None]).sum(axis=1)
    left_agrees = (index % 2 == 1) == as_first  # signs alternate, also beyond the ends
    leaves = np.where(left_agrees, index - 1, index + 1) % merged.shape[1]
    return np.asarray(
        merged[np.arange(merged.shape[1]) != leaves[:, None]].reshape(reference.shape)
    )

"""Layers and their quantization errors, small enough for brute force."""

import numpy as np

from calibzarr.advice.methods.base import Layers, QuantizationError

# Rows: q, k and v of a block, its fc2, the block itself, and a layer outside of it.
LINEAR = np.array([True, True, True, True, False, True])

TIED = np.array([0, 0, 0, 1, 2, 3])

INSIDE = np.zeros((6, 6), dtype=bool)
INSIDE[4, :4] = True

PHASES = 3


def layers(seed=0, empty_phase=False):
    generator = np.random.default_rng(seed)
    values = generator.integers(1, 9, (6, PHASES))
    values[:3] = values[0]  # they share their input
    if empty_phase:
        values[:, 1] = 0
    return Layers(
        linear=LINEAR,
        tied=TIED,
        inside=INSIDE,
        operations=np.where(LINEAR, generator.integers(1, 9, 6), 0.0),
        values=values,
        weights=np.where(LINEAR, generator.integers(1, 9, 6), 0),
    )


def noise(seed=0, equal=False):
    """Errors that fall with bits; of the weights too, but a block has none."""
    generator = np.random.default_rng(seed)

    def falling(*shape):
        own = 0.3 * 16.0 ** -np.arange(4) * generator.lognormal(0, 1, (*shape, 4))
        own = np.round(own, 3) + 0.001 if equal else own
        return -np.sort(-own, axis=-1)

    weights = falling(6)
    weights[~LINEAR] = np.nan
    by_phase = falling(6, PHASES)
    return QuantizationError(
        overall=falling(6), static=by_phase * 1.5, by_phase=by_phase, weights=weights
    )

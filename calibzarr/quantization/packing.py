"""Levels as MLX keeps them, without MLX."""

import numpy as np


def packed(level: np.ndarray, bits: int) -> np.ndarray:
    """Levels as MLX keeps them: the bits of a row one after the other, the lowest first.

    Args:
        level: from 0 to ``2**bits - 1``, shape (output, feature), uint8; features are a multiple
            of 32.
        bits: of a level.

    Returns:
        Shape (output, feature * bits / 32), uint32.
    """
    each = np.unpackbits(level[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(each.reshape(len(level), -1), axis=1, bitorder="little").view("<u4")

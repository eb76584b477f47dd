"""Bits by the kurtosis of weights, as data-free allocators have it: heavy tails get more bits."""

import numpy as np
from scipy import stats

from benchmarks.peers.calibration import Bits, Calibration


def choose(calibration: Calibration, mean: float) -> Bits:
    """Bits of each layer: one below the mean, and one above it for the highest kurtosis.

    Args:
        calibration: gives the weights; nothing is calibrated.
        mean: the most bits of a weight, scales counted.
    """
    kurtosis = {
        module: float(stats.kurtosis(np.asarray(weight).astype(np.float64), axis=None))
        for module, weight in calibration.weights.items()
    }
    low, high = int(mean) - 1, int(mean) + 1
    bits = calibration.uniform(low)
    for module in sorted(kurtosis, key=kurtosis.__getitem__, reverse=True):
        raised = {**bits, module: high}
        if calibration.mean(raised) <= mean:
            bits = raised
    return bits

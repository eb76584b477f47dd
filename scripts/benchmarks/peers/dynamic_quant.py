"""What mlx-lm's ``dynamic_quant`` describes, with the velocity's error in the place of a KL.

The gradient of the loss is taken where every layer has the low width. A layer's sensitivity is
the inner product of that gradient and of the weight's difference, low minus high, over the number
of its weights. Layers above a threshold get the high width. The threshold is found by bisection
on the mean bits, which ends beside what was asked rather than at it.
"""

import mlx.core as mx

from benchmarks.peers.calibration import Bits, Calibration

_PRECISION = 1e-3  # of the range of sensitivities, where the bisection ends


def choose(calibration: Calibration, widths: tuple[int, int], mean: float) -> Bits:
    """Bits of each layer, of two widths.

    Args:
        calibration: to measure on.
        widths: low and high.
        mean: bits of a weight, scales counted, that are asked.
    """
    low, high = (calibration.quantized(calibration.uniform(width)) for width in widths)
    gradient = calibration.gradient(low)
    sensitivity = {
        module: float((gradient[module] * (low[module] - high[module]).astype(mx.float32)).sum())
        / low[module].size
        for module in low
    }

    def bits(threshold: float) -> dict[str, int]:
        return {module: widths[value > threshold] for module, value in sensitivity.items()}

    least, greatest = min(sensitivity.values()), max(sensitivity.values())
    tolerance = _PRECISION * (greatest - least)
    while greatest - least > tolerance:
        middle = (least + greatest) / 2
        if calibration.mean(bits(middle)) > mean:
            least = middle
        else:
            greatest = middle
    return bits((least + greatest) / 2)


def best(calibration: Calibration, mean: float) -> Bits:
    """The choice of the pair of widths with the least error on what it is calibrated on."""
    uniform = int(mean)
    pairs = [(low, high) for low in (2, 3) for high in (4, 5, 6, 8) if low < uniform < high]
    choices = [choose(calibration, pair, mean) for pair in pairs]
    return min(choices, key=lambda bits: calibration.error(calibration.quantized(bits)))

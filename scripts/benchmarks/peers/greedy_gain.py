"""What mlx-optiq describes: a greedy knapsack on the error that quantizing each layer alone makes.

Taken from https://mlx-optiq.com/docs/sensitivity and https://mlx-optiq.com/experiments: every
layer is put at every candidate width with all others unquantized, the outputs' divergence on
calibration samples is its cost, and bits go where the cost falls most per bit. Its KL divergence
of logits is here the squared error of the velocity; its candidates 4 and 8 are here all of MLX's
widths, since 4 is above the smallest mean that is asked.
"""

from benchmarks.peers.calibration import Bits, Calibration
from calibzarr.quantization.quantizers import MLX_BITS

Table = dict[str, dict[int, float]]


def measure(calibration: Calibration) -> Table:
    """The error that each layer alone makes at each width, by module and bits."""
    return {
        module: {
            width: calibration.error(calibration.quantized({module: width})) for width in MLX_BITS
        }
        for module in calibration.weights
    }


def choose(calibration: Calibration, errors: Table, mean: float) -> Bits:
    """Bits of each layer: from the fewest, the best raise that the mean allows, again and again.

    Args:
        calibration: that errors were measured on.
        errors: of :func:`measure`.
        mean: the most bits of a weight, scales counted.
    """
    bits = calibration.uniform(MLX_BITS[0])

    def gain(raised: tuple[str, int]) -> float:
        module, width = raised
        fewer = errors[module][bits[module]] - errors[module][width]
        return fewer / ((width - bits[module]) * calibration.weights[module].size)

    while True:
        raises = [
            (module, MLX_BITS[MLX_BITS.index(width) + 1])
            for module, width in bits.items()
            if width != MLX_BITS[-1]
        ]
        fitting = [
            (module, width)
            for module, width in raises
            if calibration.mean({**bits, module: width}) <= mean
        ]
        if not fitting:
            return bits
        module, width = max(fitting, key=gain)
        bits[module] = width

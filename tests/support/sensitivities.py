"""Sensitivities of made-up products, as arrays."""

import numpy as np

from calibzarr.quantization.prediction import Measured
from calibzarr.quantization.quantizers import QUANTIZERS

NUM_STEPS = 12


def made_up(steps=(1, 4, 7, 10), seed=0):
    """Four linear layers, of which the second and the third read the same, and a block."""
    generator = np.random.default_rng(seed)
    shape = (5, len(steps), len(QUANTIZERS), 3, 2)
    bits = np.array([quantizer.bits for quantizer in QUANTIZERS], float)
    common = generator.standard_normal((5, 1, 1, 3, 2))  # steps go together, as they do
    products = (common + 0.5 * generator.standard_normal(shape)) * (4.0 ** (-bits / 2))[
        :, None, None
    ]
    of_inputs = [quantizer.quantizes == "activation" for quantizer in QUANTIZERS]
    products[2][:, of_inputs] = products[1][:, of_inputs]
    sigma = np.append(np.linspace(1, 0.2, NUM_STEPS), 0) ** 1.5
    return Measured(
        names=np.array(["a", "b.q", "b.k", "c", "block"]),
        linear=np.array([True, True, True, True, False]),
        input_group=np.array([0, 1, 1, 3, 4]),
        steps=np.array(steps),
        sigma=sigma.astype(np.float32),
        products=products.astype(np.float32),
        power=np.ones((len(steps), 3)),
        elements=4,
        amplification=np.linspace(0.1, 1, NUM_STEPS) ** 2,
        decoder_gain_db=18.0,
        clip_min=-np.ones((5, 7)),
        clip_max=np.ones((5, 7)),
    )

"""Stores with sensitivities of made-up products, which no model had to make."""

import uuid

import numpy as np

from calibzarr.collecting import measurement, sensitivity_plan
from calibzarr.quantization.quantizers import QUANTIZERS
from calibzarr.storage import reading


def measure(path, **options):
    """Add sensitivities to a store with statistics, as a measurement would."""
    plan = sensitivity_plan.plan(path, **options)
    found, generator = plan.start, np.random.default_rng(0)
    statistics = reading.open_statistics(path)
    linear = (statistics.role == "input").values
    for row, width in enumerate(statistics.features.values):
        for column, quantizer in enumerate(QUANTIZERS):
            if linear[row] and (quantizer.quantizes == "activation" or quantizer.fits(width)):
                values = found.products[row, :, column]
                values[:] = generator.standard_normal(values.shape)
    found.power[:] = generator.uniform(1, 2, found.power.shape)
    found.amplified[:] = generator.uniform(0.5, 1, found.amplified.shape)
    about = {
        **plan.about,
        "num_images": len(found.images),
        "num_probes": found.products.shape[-1],
        "stamp": uuid.uuid4().hex,
    }
    measurement.write(path, found, about)

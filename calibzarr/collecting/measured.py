"""The sensitivities of a store, as the arrays that predictions and allocations take."""

import numpy as np

from calibzarr.collecting import measurement
from calibzarr.errors import Call, StoreError
from calibzarr.quantization.prediction import Measured
from calibzarr.storage import reading, schema
from calibzarr.storage.manifest import Root

_LATE = 0.9  # of the calls: an error of one call so late is grainier than what accumulates


def read(root: Root) -> Measured:
    """Read a store's sensitivities.

    Args:
        root: of the store.

    Raises:
        StoreError: if it has none, or they are of other weights than its statistics.
        ValueError: if they are of other quantizers.
    """
    about = root.attributes.get(schema.SENSITIVITY)
    if about is None:
        raise StoreError(
            f"{root.path} has no sensitivities; measure them with: ",
            Call("sensitivity", (root.path,)),
        )
    statistics = reading.open_statistics(root)
    if about["model_fingerprint"] != statistics.attrs[schema.ACTIVATIONS]["model_fingerprint"]:
        raise StoreError(
            f"{root.path} has sensitivities of other weights than its statistics; measure anew "
            "with: ",
            Call("sensitivity", (root.path,), {"force": True}),
        )
    found = measurement.read(root.path, about)
    dataset = reading.open_store(root)
    names = statistics.layer.values.tolist()
    return Measured(
        names=statistics.layer.values,
        linear=np.asarray(statistics.role.values == "input"),
        input_group=np.array([names.index(name) for name in statistics.input_group.values]),
        steps=np.array(found.steps),
        sigma=dataset[schema.SIGMA.name].values,
        products=found.products,
        power=found.power,
        elements=int(np.prod(dataset[schema.LATENTS.name].shape[2:])),
        amplification=dataset.amplification.values[:-1].astype(np.float64),
        decoder_gain_db=_decoder_gain_db(found, num_steps=int(root.attributes["num_steps"])),
        clip_min=found.clip_min,
        clip_max=found.clip_max,
    )


def _decoder_gain_db(found: measurement.Measurement, num_steps: int) -> float:
    """Of errors as they accumulate over a sampling; NaN if unknown.

    Errors of pictures over those of latents are averaged, without the rollouts of the last calls:
    decoders hide the grain of single errors.
    """
    seen = np.power(10, -found.decoder_gain_db / 10)
    late = np.array(found.amplified_steps) >= _LATE * num_steps
    chosen = seen if late.all() else seen[~late]
    known = chosen[np.isfinite(chosen)]
    return float(-10 * np.log10(known.mean())) if known.size else float("nan")

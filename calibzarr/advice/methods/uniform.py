"""The same bits everywhere."""

import numpy as np

from calibzarr.advice.methods.base import Chosen, Evidence, Method
from calibzarr.advice.methods.budget import means, reasons
from calibzarr.advice.options import Options
from calibzarr.errors import Option, OptionError
from calibzarr.quantization.levels import BITS


def _choose(evidence: Evidence, options: Options) -> Chosen:
    of_weights = tuple(sorted({quantizer.bits for quantizer in evidence.weights.quantizers}))
    bits = []
    for name, value, allowed in zip(
        ("weight_bits", "activation_bits"), means(options), (of_weights, BITS), strict=True
    ):
        if value not in allowed:
            raise OptionError(
                Option(name),
                f" of the method uniform must be one of {', '.join(map(str, allowed))}, "
                f"got {value:g}",
            )
        bits.append(np.full(len(evidence.names), int(value)))
    return Chosen.of_bits(evidence, activation=bits[1], weight=bits[0])


def _provenance(options: Options) -> dict[str, float]:
    weight, activation = means(options)
    return {"weight_bits": weight, "activation_bits": activation}


METHOD = Method(
    choose=_choose,
    reasons=reasons,
    provenance=_provenance,
    uses=frozenset({"weight_bits", "activation_bits", "clip"}),
)

"""Weight bits as mlx-lm's ``quantization`` entry has them, which ``mlx.nn.quantize`` takes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from calibzarr.export import checkpoint
from calibzarr.export.writing import ConfigurationResult, as_json, bits_in_words, linear_layers
from calibzarr.quantization.configuration import UNQUANTIZED
from calibzarr.quantization.quantizers import Quantizer
from calibzarr.storage import durable


def write(recommended: xr.Dataset, file: Path) -> ConfigurationResult:
    """Write what ``mlx.nn.quantize`` takes.

    Args:
        recommended: of ``recommendation.of_statistics``, with the weights' quantizer ``mlx``.
        file: to write.

    Raises:
        OSError: if it cannot be written.
    """
    entry = quantization(recommended)
    durable.write_result(file, as_json(entry))
    return ConfigurationResult(
        num_layers=sum(isinstance(of_path, dict) for of_path in entry.values()),
        bits=bits_in_words(recommended, ("weight",)),
        warnings=recommended.attrs["warnings"],
        prediction=recommended.attrs["prediction"],
    )


def quantization(recommended: xr.Dataset) -> Mapping[str, Any]:
    """The entry ``quantization`` of mlx-lm's ``config.json``.

    It has bits and group size of each linear layer, by its path in the model's parameter tree, and
    false for one that stays unquantized; and a default, as mlx-lm wants. In Python:
    ``nn.quantize(transformer, class_predicate=lambda path, _: entry.get(path, False))``.

    Args:
        recommended: of ``recommendation.of_statistics``, with the weights' quantizer ``mlx``.
    """
    linear = linear_layers(recommended)
    columns = (linear[name].values.tolist() for name in ("module", "weight_scheme", "weight_bits"))
    return {
        **checkpoint.DEFAULTS,
        **{
            path: bits != UNQUANTIZED
            and {"group_size": Quantizer("weight", scheme, bits).group_size, "bits": bits}
            for path, scheme, bits in zip(*columns, strict=True)
        },
    }

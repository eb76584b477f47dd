"""Weight bits as ``mlx.nn.quantize`` takes them: bits and group size by path."""

from collections.abc import Mapping
from pathlib import Path

import xarray as xr

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
    paths = class_predicate(recommended)
    durable.write(file, as_json(paths))
    return ConfigurationResult(
        num_layers=len(paths),
        bits=bits_in_words(recommended, ("weight",)),
        warnings=recommended.attrs["warnings"],
        prediction=recommended.attrs["prediction"],
    )


def class_predicate(recommended: xr.Dataset) -> Mapping[str, dict[str, int | None]]:
    """Bits and group size of each linear layer, by its path in the model's parameter tree.

    In Python: ``nn.quantize(transformer, class_predicate=lambda path, _: config.get(path,
    False))``. Layers that stay unquantized are left out.

    Args:
        recommended: of ``recommendation.of_statistics``, with the weights' quantizer ``mlx``.
    """
    linear = linear_layers(recommended)
    columns = (linear[name].values.tolist() for name in ("module", "weight_scheme", "weight_bits"))
    return {
        path: {"bits": bits, "group_size": Quantizer("weight", scheme, bits).group_size}
        for path, scheme, bits in zip(*columns, strict=True)
        if bits != UNQUANTIZED
    }

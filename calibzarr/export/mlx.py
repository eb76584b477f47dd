"""Weight bits as ``mlx.nn.quantize`` takes them: bits and group size by path."""

from collections.abc import Mapping
from pathlib import Path

import xarray as xr

from calibzarr.export.writing import (
    ConfigurationResult,
    as_json,
    bits_in_words,
    linear_layers,
    unmet,
)
from calibzarr.storage import durable

GROUP_SIZES = (64, 32)  # MLX's default first; inputs must be a multiple of it


def write(recommended: xr.Dataset, file: Path) -> ConfigurationResult:
    """Write what ``mlx.nn.quantize`` takes.

    Args:
        recommended: of ``recommendation.of_statistics``.
        file: to write.

    Raises:
        OSError: if it cannot be written.
    """
    paths = class_predicate(recommended)
    durable.write(file, as_json(paths))
    warnings = [text for values, text in unmet(recommended).items() if values == "weights"]
    if left_out := linear_layers(recommended).sizes["layer"] - len(paths):
        warnings.append(f"{left_out} layers stay as they are: their widths do not divide by 32")
    bits = bits_in_words(recommended, ("weight",))
    return ConfigurationResult(len(paths), bits, tuple(warnings))


def class_predicate(recommended: xr.Dataset) -> Mapping[str, dict[str, int]]:
    """Bits and group size of each linear layer, by its path in the model's parameter tree.

    In Python: ``nn.quantize(transformer, class_predicate=lambda path, _: config.get(path,
    False))``. Layers whose inputs are no multiple of 32 are left out, and so stay as they are.

    Args:
        recommended: of ``recommendation.of_statistics``.
    """
    linear = linear_layers(recommended)
    fitting = {
        str(path): (int(bits), next((s for s in GROUP_SIZES if features % s == 0), None))
        for path, bits, features in zip(
            linear.module.values, linear.weight_bits.values, linear.features.values, strict=True
        )
    }
    return {
        path: {"bits": bits, "group_size": size}
        for path, (bits, size) in fitting.items()
        if size is not None
    }

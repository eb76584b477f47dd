"""Weight bits as ``mlx.nn.quantize`` takes them: bits and group size by path."""

from collections.abc import Mapping

import xarray as xr

GROUP_SIZES = (64, 32)  # MLX's default first; inputs must be a multiple of it


def class_predicate(recommended: xr.Dataset) -> Mapping[str, dict[str, int]]:
    """Bits and group size of each linear layer, by its path in the model's parameter tree.

    In Python: ``nn.quantize(transformer, class_predicate=lambda path, _: config.get(path,
    False))``. Layers whose inputs are no multiple of 32 are left out, and so stay as they are.

    Args:
        recommended: of ``recommendation.of_statistics``.
    """
    linear = recommended.isel(layer=recommended.role.values == "input")
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

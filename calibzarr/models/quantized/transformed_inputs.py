"""Running the transformer on other inputs of its linear layers, such as quantized ones."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn

from calibzarr.models.base import Layer, Transform
from calibzarr.models.observation import patched


@contextmanager
def transforming_inputs(
    mmdit: nn.Module, layers: Sequence[Layer], transform: Transform
) -> Iterator[None]:
    """Give every linear layer, within a context, what ``transform`` makes of its input.

    Args:
        mmdit: DiffusionKit's transformer.
        layers: of the model.
        transform: called with the index of the layer and its input.
    """
    modules = dict(mmdit.named_modules())
    index_of = {id(modules[v.module]): i for i, v in enumerate(layers) if v.role == "input"}

    def linear_call(original: Callable[..., mx.array], module: nn.Module, x: mx.array) -> mx.array:
        index = index_of.get(id(module))
        return original(module, x if index is None else transform(index, x))

    with patched(nn.Linear, linear_call):
        yield

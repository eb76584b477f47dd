"""Backward passes through DiffusionKit's transformer, without a trace in it.

An identity with a gradient of its own stands behind every linear layer while the guided output is
differentiated. Blocks are checkpointed: memory holds one block's intermediate arrays.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from calibzarr.models.compatibility import import_diffusionkit
from calibzarr.models.observation import patched

kit: Any = import_diffusionkit()

Receive = Callable[[int, mx.array, mx.array, mx.array], None]
"""``receive(layer, weight, inputs, gradient)``: the gradient is that at the layer's output."""


@contextmanager
def receiving_gradients(index_of: Mapping[int, int], receive: Receive) -> Iterator[None]:
    """Hand over, within a context, the gradient at every linear layer that is differentiated.

    Args:
        index_of: index of each layer, by the ``id`` of its module.
        receive: called while ``mx.vjp`` traces; its arrays are not computed yet.
    """

    def linear_call(original: Callable[..., mx.array], module: nn.Module, x: mx.array) -> mx.array:
        y = original(module, x)
        index = index_of.get(id(module))
        if index is None:
            return y
        weight = module.weight  # now: adaLN's is emptied once its output is cached
        return _identity(y, partial(receive, index, weight, x))

    with (
        patched(nn.Linear, linear_call),
        patched(kit.mmdit.MultiModalTransformerBlock, _checkpointed_block),
        patched(kit.mmdit.UnifiedTransformerBlock, _checkpointed_block),
    ):
        yield


def _identity(values: mx.array, receive: Callable[[mx.array], None]) -> mx.array:
    """The same values; ``receive`` gets the gradient that comes back to them."""

    @mx.custom_function
    def same(values: mx.array) -> mx.array:
        return values

    @same.vjp
    def backward(_primals: mx.array, gradient: mx.array, _output: mx.array) -> mx.array:
        receive(gradient)
        return gradient

    return cast(mx.array, same(values))


def _checkpointed_block(
    original: Callable[..., mx.array | tuple[mx.array | None, ...]],
    block: nn.Module,
    *arrays: mx.array,
    **rest: Any,
) -> Any:
    """Call a block so that its intermediate arrays are made again when they are needed.

    ``mx.checkpoint`` differentiates with respect to explicit arguments alone: what adaLN gave for
    the timestep, which the block looks up, is handed in.
    """
    *inputs, timestep = arrays
    key = timestep[0].item()
    branches = [branch for branch in block.children().values() if "_modulation_params" in branch]
    cached = [branch._modulation_params for branch in branches]
    returned: list[bool] = []  # which of the results there are

    def run(inputs: Sequence[mx.array], modulations: Sequence[mx.array]) -> list[mx.array]:
        for branch, modulation in zip(branches, modulations, strict=True):
            branch._modulation_params = {key: modulation}
        try:
            results = original(block, *inputs, timestep, **rest)
        finally:
            for branch, before in zip(branches, cached, strict=True):
                branch._modulation_params = before
        streams = results if isinstance(results, tuple) else (results,)
        returned[:] = [stream is not None for stream in streams]
        return [stream for stream in streams if stream is not None]

    present = iter(mx.checkpoint(run)(inputs, [modulations[key] for modulations in cached]))
    results = tuple(next(present) if there else None for there in returned)
    return results if len(results) > 1 else results[0]

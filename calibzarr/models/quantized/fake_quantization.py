"""DiffusionKit's transformer with quantized values in the arithmetic that it always has."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from calibzarr.models.base import Layer
from calibzarr.models.modulation import CACHE, clear_caches, unchanged_parameters
from calibzarr.models.observation import patched
from calibzarr.quantization.configuration import ActivationQuantization, Configuration
from calibzarr.quantization.quantizers import (
    Quantizer,
    quantized_by_tensor,
    quantized_by_token,
    quantized_weight,
)

AtCall = Callable[[int], AbstractContextManager[None]]
"""``with at_call(step):`` a call of the transformer at a step is made in."""

Inputs = Sequence[ActivationQuantization | None]
"""Of the layers of a configuration, in its order."""

_SHARED = 4  # arrays that wait for other readers: FLUX's fc1 reads after o_proj what q reads


class FakeQuantization:
    """Quantized weights of a transformer, and the quantizers of its layers' inputs.

    Weights are quantized once, here. The transformer has them within :meth:`modulated` alone.

    Args:
        mmdit: DiffusionKit's transformer.
        layers: of the model.
        configuration: for this model.
    """

    def __init__(
        self, mmdit: nn.Module, layers: Sequence[Layer], configuration: Configuration
    ) -> None:
        modules = dict(mmdit.named_modules())
        groups = [layer.input_group for layer in layers]
        input_group = {layer.name: layer.input_group for layer in layers}
        self._mmdit = mmdit
        self._configuration = configuration
        self._modules = [modules[layer.module] for layer in configuration.layers]
        self._index_of = {id(module): index for index, module in enumerate(self._modules)}
        self._shares = [groups.count(input_group[layer.name]) > 1 for layer in configuration.layers]
        self._weights = {
            index: quantized_weights(self._modules[index].weight, layer.weight)
            for index, layer in enumerate(configuration.layers)
            if layer.weight is not None
        }
        mx.eval(list(self._weights.values()))

    @contextmanager
    def modulated(
        self, pooled: mx.array, timesteps: mx.array, sigma: np.ndarray, steps: Sequence[int]
    ) -> Iterator[AtCall]:
        """Compute adaLN's outputs phase by phase, and give the context that a call is made in.

        Afterwards the model is as it was before.

        Args:
            pooled: pooled text embeddings, shape (row, feature).
            timesteps: of all states, in the activation dtype.
            sigma: of all states.
            steps: indices of the calls to prepare.
        """
        caches: dict[int, dict[int, dict[float, mx.array]]] = {}  # by step and module
        with unchanged_parameters(self._mmdit):
            full = self._mmdit.parameters()
            for chosen, members in groupby(steps, lambda step: self._at(sigma, step)):
                alike = list(members)
                self._mmdit.update(full)  # adaLN's, which the pass before emptied
                self._put_weights()
                with self._quantizing(chosen):
                    self._mmdit.cache_modulation_params(pooled, timesteps[mx.array(alike)])
                cached = {id(m): m[CACHE] for m in self._mmdit.modules() if CACHE in m}
                caches.update(dict.fromkeys(alike, cached))
                clear_caches(self._mmdit)
            modulated = {id(module): module for module in self._mmdit.modules()}

            @contextmanager
            def at_call(step: int) -> Iterator[None]:
                # Those of its phase alone: in 16 bits, calls of two may be told one timestep.
                for identity, cache in caches[step].items():
                    modulated[identity][CACHE] = cache
                with self._quantizing(self._at(sigma, step)):
                    yield

            yield at_call

    def _at(self, sigma: np.ndarray, step: int) -> Inputs:
        return self._configuration.activations(float(sigma[step]))

    def _put_weights(self) -> None:
        for index, weight in self._weights.items():
            self._modules[index].weight = weight

    @contextmanager
    def _quantizing(self, chosen: Inputs) -> Iterator[None]:
        """Quantize, within a context, what linear layers read; an array for all of them once."""
        shared: dict[tuple[int, ActivationQuantization], tuple[mx.array, mx.array]] = {}

        def inputs(index: int, x: mx.array) -> mx.array:
            quantization = chosen[index]
            if quantization is None:
                return x
            if not self._shares[index]:
                return quantized_inputs(x, quantization)
            key = id(x), quantization
            if key not in shared:
                if len(shared) == _SHARED:
                    del shared[next(iter(shared))]
                shared[key] = x, quantized_inputs(x, quantization)  # x, so that no other has its id
            return shared[key][1]

        def linear_call(
            original: Callable[..., mx.array], module: nn.Module, x: mx.array
        ) -> mx.array:
            index = self._index_of.get(id(module))
            return original(module, x if index is None else inputs(index, x))

        with patched(nn.Linear, linear_call):
            yield


def quantized_inputs(x: mx.array, quantization: ActivationQuantization) -> mx.array:
    """Inputs of a layer on their levels, computed in float32, of the dtype that they were of."""
    values, bits = x.astype(mx.float32), quantization.bits
    if quantization.scale is None or quantization.zero_point is None:
        quantized = quantized_by_token(values, bits)
    else:
        quantized = quantized_by_tensor(values, quantization.scale, quantization.zero_point, bits)
    return quantized.astype(x.dtype)


def quantized_weights(weight: mx.array, quantizer: Quantizer) -> mx.array:
    """A weight as a quantizer leaves it, rounded to the dtype that it was of."""
    on_host = mx.default_device().type == mx.DeviceType.cpu and quantizer.group_size is None
    values = np.asarray(weight.astype(mx.float32)) if on_host else weight  # NumPy is faster there
    return mx.array(quantized_weight(values, quantizer)).astype(weight.dtype)

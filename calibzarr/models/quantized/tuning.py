"""Scales and biases of quantized weights, tuned until outputs are the unquantized model's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from calibzarr.models.base import Layer, Schedule
from calibzarr.models.gradients import receiving_gradients
from calibzarr.models.modulation import unchanged_parameters
from calibzarr.models.quantized.tunable import Grid
from calibzarr.quantization.quantizers import on_levels

Parts = dict[str, mx.array]
"""Scales and biases of all layers, float32, by ``scales-<index of the layer>`` and ``biases-``."""

Output = Callable[..., mx.array]
"""The guided output by latents, tokens, pooled embeddings and timestep."""

OutputAt = Callable[[float, Schedule, int], tuple[Output, mx.array]]
"""``output, timestep = output_at(cfg_weight, schedule, step)``"""


class ScaleTuner:
    """Scales and biases of a transformer's quantized weights, under Adam.

    The loss is the mean squared error of an output (mlx-lm's DWQ has a divergence of
    probabilities). Gradients of weights are g^T x of each layer's inputs and output gradients;
    those of a group's scale and bias are sums of them, with its levels and without.

    Args:
        mmdit: DiffusionKit's transformer, of its own; its parameters are replaced.
        output_at: gives what it computes.
        layers: of the model.
        grids: of the layers that are quantized, by their index.
    """

    def __init__(
        self,
        mmdit: nn.Module,
        output_at: OutputAt,
        layers: Sequence[Layer],
        grids: Mapping[int, Grid],
    ) -> None:
        modules = dict(mmdit.named_modules())
        self._mmdit = mmdit
        self._output_at = output_at
        self._modules = {index: modules[layers[index].module] for index in grids}
        self._index_of = {id(module): index for index, module in self._modules.items()}
        self._dtypes = {index: module.weight.dtype for index, module in self._modules.items()}
        self._levels = {index: mx.array(grid[0]) for index, grid in grids.items()}
        self._parts: Parts = {
            f"{name}-{index}": mx.array(values)
            for index, grid in grids.items()
            for name, values in zip(("scales", "biases"), grid[1:], strict=True)
        }
        self._optimizer: Any = optimizers.Adam(learning_rate=0.0)
        self._optimizer.init(self._parts)

    def step(
        self,
        latents: np.ndarray,
        conditioning: Any,
        schedule: Schedule,
        step: int,
        velocity: np.ndarray,
        learning_rate: float,
    ) -> float:
        """Make one step of Adam down the squared error of the guided output; returns that."""
        output, timestep = self._output_at(conditioning.cfg_weight, schedule, step)
        states, target = (mx.array(v).transpose(0, 2, 3, 1) for v in (latents, velocity))
        primals = states, conditioning.tokens, conditioning.pooled, timestep
        with unchanged_parameters(self._mmdit):
            loss, gradients = self.gradients(output, primals, target)
        self._optimizer.learning_rate = learning_rate
        self._parts = self._optimizer.apply_gradients(gradients, self._parts)
        mx.eval(self._parts, self._optimizer.state)
        return loss

    def gradients(
        self, output: Output, primals: Sequence[mx.array], target: mx.array
    ) -> tuple[float, Parts]:
        """The mean squared error of an output, and its gradients.

        Args:
            output: of the transformer, for ``primals``.
            primals: all that it depends on.
            target: of its shape.
        """
        for index, module in self._modules.items():
            module.weight = self._weight(index).astype(self._dtypes[index])

        def half_of_squares(*primals: mx.array) -> mx.array:  # its 16-bit gradients do not vanish
            return mx.square((output(*primals) - target).astype(mx.float32)).sum() / 2

        received: list[tuple[int, mx.array, mx.array]] = []
        with receiving_gradients(
            self._index_of, lambda layer, _, x, gradient: received.append((layer, x, gradient))
        ):
            (half,), _ = mx.vjp(half_of_squares, list(primals), [mx.array(1.0)])
        found = {name: mx.zeros_like(values) for name, values in self._parts.items()}
        while received:  # layer after layer, so that memory holds one weight's gradient
            layer, x, gradient = received.pop(0)
            rows = [values.reshape(-1, values.shape[-1]) for values in (gradient, x)]
            of_weight = rows[0].astype(mx.float32).T @ rows[1].astype(mx.float32)
            of_weight = of_weight * (2 / target.size)
            groups = (*self._parts[f"scales-{layer}"].shape, -1)
            levels = self._levels[layer].astype(mx.float32)
            for name, values in (("scales", of_weight * levels), ("biases", of_weight)):
                found[f"{name}-{layer}"] += values.reshape(groups).sum(axis=-1)
            mx.eval(found[f"scales-{layer}"], found[f"biases-{layer}"])
        return 2 * float(np.asarray(half)) / target.size, found

    def scales(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Scales and biases as a checkpoint has them, float32 of values of 16 bits, by layer."""
        found = {}
        for index, dtype in self._dtypes.items():
            stored = mx.bfloat16 if dtype == mx.bfloat16 else mx.float16
            scale, bias = (
                np.asarray(self._parts[f"{name}-{index}"].astype(stored).astype(mx.float32))
                for name in ("scales", "biases")
            )
            found[index] = scale, bias
        return found

    def state(self) -> dict[str, np.ndarray]:
        """All that :meth:`restore` needs to go on."""
        named = tree_flatten({"parts": self._parts, "optimizer": self._optimizer.state})
        return {path: np.asarray(value) for path, value in named}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state."""
        tree: Any = tree_unflatten([(path, mx.array(value)) for path, value in state.items()])
        self._parts, self._optimizer.state = tree["parts"], tree["optimizer"]

    def _weight(self, index: int) -> mx.array:
        return on_levels(
            self._levels[index], self._parts[f"scales-{index}"], self._parts[f"biases-{index}"]
        )

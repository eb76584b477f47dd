"""What quantizing each layer does to a random sum of the output, to first order, from one pass."""

from collections.abc import Callable, Iterator, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from calibzarr.models.base import Layer
from calibzarr.models.gradients import receiving_gradients
from calibzarr.quantization.quantizers import (
    ACTIVATION_QUANTIZERS,
    QUANTIZERS,
    QuantizationErrors,
)

_PROBE_SCALES = (1024.0, 64.0, 4.0, 1.0)  # of 16-bit gradients: the first that overflows nowhere
_ERRORS_TOGETHER = 2**26  # values


def signed_products(
    mmdit: nn.Module,
    layers: Sequence[Layer],
    velocity: Callable[..., mx.array],
    primals: Sequence[mx.array],
    probes: mx.array,
    rows: tuple[int, int],
    errors: QuantizationErrors,
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of gradient times quantization error, and the power of the output.

    Args:
        mmdit: DiffusionKit's transformer.
        layers: of the model.
        velocity: the guided output for ``primals``, shape (image * probe, height, width, channel).
        primals: everything that the output depends on.
        probes: of the output's shape, 1 and -1.
        rows: number of images, and of probes of each, which are neighbours.
        errors: of all quantizers.

    Returns:
        Products, shape (layer, quantizer, image, probe), float32, NaN where there is no such
        quantization; and the output's sum of squares, shape (image,), float64.

    Raises:
        ValueError: if the output or its gradients are not finite.
    """
    modules = dict(mmdit.named_modules())
    index_of = {id(modules[v.module]): i for i, v in enumerate(layers) if v.role == "input"}
    wide = mmdit.config.dtype == mx.float32
    for scale in (1.0,) if wide else _PROBE_SCALES:
        sums = _SignedSums(layers, errors, rows)
        with receiving_gradients(index_of, sums.receive):
            (output,), _ = mx.vjp(velocity, list(primals), [scale * probes])
        power = _power(output, rows)
        products = sums.finish() / np.float32(scale)
        known = products[list(index_of.values()), : len(ACTIVATION_QUANTIZERS)]  # by all layers
        finite = np.isfinite(known).all() and not np.isinf(products).any()
        if finite and np.isfinite(power).all():
            return products, power
    raise ValueError("the output of the model, or its gradients, are not finite")


def _power(output: mx.array, rows: tuple[int, int]) -> np.ndarray:
    values = np.asarray(output.astype(mx.float32)).reshape(*rows, -1)[:, 0].astype(np.float64)
    return np.asarray(np.square(values).sum(axis=1))


class _SignedSums:
    """Sums of gradient times quantization error, made group by group as a pass goes back."""

    def __init__(
        self, layers: Sequence[Layer], errors: QuantizationErrors, rows: tuple[int, int]
    ) -> None:
        self._products = np.full((len(layers), len(QUANTIZERS), *rows), np.nan, np.float32)
        self._errors = errors
        self._rows = rows
        self._received: list[tuple[int, mx.array, mx.array, mx.array]] = []
        groups: dict[str, list[int]] = {}
        for index, layer in enumerate(layers):
            if layer.role == "input":
                groups.setdefault(layer.input_group, []).append(index)
        self._group_of = {index: group for group in groups.values() for index in group}

    def receive(self, layer: int, weight: mx.array, inputs: mx.array, gradient: mx.array) -> None:
        """Keep what :func:`receiving_gradients` hands over."""
        self._received.append((layer, weight, inputs, gradient))

    def finish(self) -> np.ndarray:
        """Compute the sums, the last block first: memory holds the arrays of one group.

        Layers that the output does not depend on have products of 0.
        """
        first_weight = len(ACTIVATION_QUANTIZERS)
        waiting: dict[int, tuple[mx.array, mx.array]] = {}  # until the group's other members come
        reached = set()
        for layer, weight, inputs, gradient in self._take_received():
            x, g = self._by_image(inputs), self._by_image(gradient)
            self._products[layer, first_weight:] = self._of_weight(layer, weight, x, g)
            waiting[layer] = x, g @ weight.astype(mx.float32)
            mx.eval(waiting[layer])
            reached.add(layer)
            if all(member in waiting for member in self._group_of[layer]):
                self._finish_group(self._group_of[layer], waiting)
        while waiting:  # groups of which the output does not depend on all members
            self._finish_group(self._group_of[next(iter(waiting))], waiting)
        for layer in set(self._group_of) - reached:
            self._products[layer] = 0
        return self._products

    def _finish_group(
        self, group: Sequence[int], waiting: dict[int, tuple[mx.array, mx.array]]
    ) -> None:
        members = [waiting.pop(member) for member in group if member in waiting]
        x, gradient = members[0][0], sum((g for _, g in members[1:]), members[0][1])
        errors = self._errors.of_inputs(group[0], x[:, :1])  # one input, whatever the probe
        products = mx.stack([(gradient * error).sum(axis=(2, 3)) for error in errors])
        self._products[group, : len(ACTIVATION_QUANTIZERS)] = np.asarray(products)

    def _take_received(self) -> Iterator[tuple[int, mx.array, mx.array, mx.array]]:
        while self._received:
            yield self._received.pop(0)

    def _by_image(self, values: mx.array) -> mx.array:
        """Shape (image, probe, guidance * token, feature), float32, of an array with rows first."""
        tokens = int(np.prod(values.shape[1:-1]))
        by_row = values.astype(mx.float32).reshape(-1, *self._rows, tokens, values.shape[-1])
        return by_row.transpose(1, 2, 0, 3, 4).reshape(*self._rows, -1, values.shape[-1])

    def _of_weight(self, layer: int, weight: mx.array, x: mx.array, g: mx.array) -> np.ndarray:
        gradients = (g.swapaxes(-1, -2) @ x).reshape(-1, weight.size)
        if mx.default_device().type == mx.DeviceType.cpu:  # NumPy is faster there
            self._errors.prepare(layer, np.asarray(weight.astype(mx.float32)))
        errors = self._errors.of_weight(layer, weight)
        products = np.full((len(errors), len(gradients)), np.nan, np.float32)
        fitting = {i: error.reshape(-1) for i, error in enumerate(errors) if error is not None}
        together = max(1, _ERRORS_TOGETHER // weight.size)
        for first in range(0, len(fitting), together):  # a matrix product is faster than its rows
            indices = list(fitting)[first : first + together]
            stacked = mx.stack([fitting[index] for index in indices])
            products[indices] = np.asarray(stacked @ gradients.T)
        return products.reshape(-1, *self._rows)

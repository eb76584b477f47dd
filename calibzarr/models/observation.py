"""Looking at the values that flow through DiffusionKit's transformer, without a trace in it."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from calibzarr.models.base import Layer, Receive, ReceiveStep
from calibzarr.models.compatibility import import_diffusionkit
from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.reduction import Reduction, reduce

kit: Any = import_diffusionkit()

Reduce = Callable[[Sequence[mx.array], LogBins], list[Reduction]]


@contextmanager
def observing(
    mmdit: nn.Module,
    layers: Sequence[Layer],
    num_images: int,
    bins: LogBins,
    receive: Receive,
    reduce_arrays: Reduce | None = None,
) -> Iterator[None]:
    """Reduce what enters every linear layer and leaves every block, while the block runs.

    Classes are patched, not modules, so the parameter tree stays as it is. What a transformer
    block saw is computed and reduced when the block ends: memory holds one block's values.

    Args:
        mmdit: DiffusionKit's transformer.
        layers: from ``observable_layers(mmdit)``.
        num_images: images of the batch; rows are all prompts, then all negative prompts.
        bins: of the histograms.
        receive: called with the indices of the layers that share an array, and its reduction.
        reduce_arrays: :func:`reduce_on_host` or :func:`reduce_on_device`; by the device if None.

    Raises:
        RuntimeError: if layers share arrays otherwise than their ``input_group`` says, or when
            the block ends, if a layer was never called; names it.
    """
    reduce_arrays = reduce_arrays or _fastest_reduction()
    observer = _Observer(mmdit, layers, range(len(layers)))

    def flush() -> None:
        for _, readers, reduction in observer.reduced(num_images, bins, reduce_arrays):
            receive(readers, reduction)

    def block_call(
        original: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any
    ) -> Any:
        result = original(module, *args, **kwargs)
        observer.see_outputs(module, result if isinstance(result, tuple) else (result,))
        flush()
        return result

    with (
        patched(nn.Linear, observer.linear_call),
        patched(kit.mmdit.MultiModalTransformerBlock, block_call),
        patched(kit.mmdit.UnifiedTransformerBlock, block_call),
    ):
        yield
        flush()
    observer.check_all_seen()


@contextmanager
def observing_cached(
    mmdit: nn.Module,
    layers: Sequence[Layer],
    steps: Sequence[int],
    num_images: int,
    bins: LogBins,
    receive: ReceiveStep,
) -> Iterator[None]:
    """Reduce what enters the cached layers, but text-only ones, of one caching pass.

    Args:
        mmdit: DiffusionKit's transformer.
        layers: from ``observable_layers(mmdit)``.
        steps: that modulation is cached for within the context, in this order.
        num_images: images of the batch; rows are as for :func:`observing`.
        bins: of the histograms.
        receive: called with each step, the indices of the layers that share an array, and its
            reduction.

    Raises:
        RuntimeError: as for :func:`observing`.
    """
    chosen = [i for i, layer in enumerate(layers) if layer.cached and not layer.text_only]
    observer = _Observer(mmdit, layers, chosen)
    with patched(nn.Linear, observer.linear_call):
        yield
    for call, readers, reduction in observer.reduced(num_images, bins, _fastest_reduction()):
        receive(steps[call], readers, reduction)
    observer.check_all_seen()


def _fastest_reduction() -> Reduce:
    on_gpu = mx.default_device().type == mx.DeviceType.gpu
    return reduce_on_device if on_gpu else reduce_on_host


class _Observer:
    """Gathers the arrays that layers see, each with the layers that see it.

    Args:
        mmdit: DiffusionKit's transformer.
        layers: from ``observable_layers(mmdit)``.
        chosen: indices of those that are observed.
    """

    def __init__(self, mmdit: nn.Module, layers: Sequence[Layer], chosen: Sequence[int]) -> None:
        self._layers = layers
        self._chosen = chosen
        modules = dict(mmdit.named_modules())
        self._inputs: dict[int, int] = {}  # of modules, by identity, as below
        self._outputs: dict[int, list[int]] = {}
        for index in chosen:
            layer = layers[index]
            module = id(modules[layer.module])
            if layer.role == "input":
                self._inputs[module] = index
            else:
                self._outputs.setdefault(module, []).append(index)
        self._groups: dict[int, str] = {}  # of arrays
        self._pending: dict[tuple[str, int], list[tuple[mx.array, int]]] = {}
        self._calls: Counter[int] = Counter()
        self._seen: set[int] = set()

    def linear_call(self, original: Callable[..., Any], module: nn.Module, x: mx.array) -> mx.array:
        """Call a linear layer and note what enters it, if it is one of the layers."""
        if (index := self._inputs.get(id(module))) is not None:
            self._see(index, x)
        return original(module, x)

    def see_outputs(self, module: nn.Module, streams: Sequence[mx.array]) -> None:
        """Note what leaves a block."""
        for index, values in zip(self._outputs.get(id(module), []), streams, strict=False):
            self._see(index, values)

    def _see(self, index: int, values: mx.array) -> None:
        layer = self._layers[index]
        group = self._groups.setdefault(id(values), layer.input_group)
        if group != layer.input_group:
            raise RuntimeError(
                f"{layer.name} reads the array that {group} reads, but its input_group is "
                f"{layer.input_group}"
            )
        call = group, self._calls[index]  # a layer may be called more than once
        self._calls[index] += 1
        self._pending.setdefault(call, []).append((values, index))

    def reduced(
        self, num_images: int, bins: LogBins, reduce_arrays: Reduce
    ) -> list[tuple[int, list[int], Reduction]]:
        """What was seen since the last time: number of the layers' call, layers and reduction.

        Raises:
            RuntimeError: if layers of one input group did not see the same values.
        """
        calls, groups = [call for _, call in self._pending], list(self._pending.values())
        self._check_equal(groups)
        self._pending, self._groups, self._calls = {}, {}, Counter()
        indices = [[index for _, index in group] for group in groups]
        self._seen.update(*indices)
        arrays = [_by_image(group[0][0], num_images).astype(mx.float32) for group in groups]
        return list(zip(calls, indices, reduce_arrays(arrays, bins), strict=True))

    def _check_equal(self, groups: Sequence[Sequence[tuple[mx.array, int]]]) -> None:
        """Most of a group is one array; adaLN's layers each see an equal one of their own."""
        copies = [
            (index, mx.array_equal(values, group[0][0], equal_nan=True))
            for group in groups
            for values, index in group[1:]
            if values is not group[0][0]
        ]
        mx.eval([equal for _, equal in copies])
        for index, equal in copies:
            if not equal.item():
                layer = self._layers[index]
                raise RuntimeError(
                    f"{layer.name} does not read the values that {layer.input_group} reads, "
                    f"which is its input_group"
                )

    def check_all_seen(self) -> None:
        """Check that no layer was passed over.

        Raises:
            RuntimeError: if one was; names it.
        """
        silent = [self._layers[index] for index in self._chosen if index not in self._seen]
        if silent:
            raise RuntimeError(
                f"{len(silent)} of {len(self._chosen)} layers were never called, the first is "
                f"{silent[0].name}"
            )


@contextmanager
def patched(class_: type, call: Callable[..., Any]) -> Iterator[None]:
    """Call ``call(original, instance, ...)`` within a context when instances are called.

    Classes are patched, not modules, so a parameter tree stays as it is.
    """
    original = class_.__call__

    def calling(instance: Any, *args: Any, **kwargs: Any) -> Any:
        return call(original, instance, *args, **kwargs)

    class_.__call__ = calling  # type: ignore[method-assign]
    try:
        yield
    finally:
        class_.__call__ = original  # type: ignore[method-assign]


def _by_image(values: mx.array, num_images: int) -> mx.array:
    """Shape (guidance, image, token, feature) of an array with rows first and features last."""
    return values.reshape(values.shape[0] // num_images, num_images, -1, values.shape[-1])


def reduce_on_host(arrays: Sequence[mx.array], bins: LogBins) -> list[Reduction]:
    """Compute arrays together and reduce them with NumPy: fastest where memory is shared."""
    mx.eval(arrays)
    return [reduce(np.asarray(array), bins) for array in arrays]


def reduce_on_device(arrays: Sequence[mx.array], bins: LogBins) -> list[Reduction]:
    """Reduce arrays where they are, in one computation; only results come to the host.

    Counts and extremes equal the host's; sums are of float32 over tokens, of float64 beyond.
    """
    table = mx.array(bins.of_high_halves.astype(np.int32))
    reduced = [_reduced_on_device(array, table, bins.count) for array in arrays]
    mx.eval(reduced)
    return [_reduction(*map(np.asarray, results)) for results in reduced]


def _reduced_on_device(values: mx.array, table: mx.array, count: int) -> tuple[mx.array, ...]:
    finite = mx.isfinite(values)
    safe = mx.where(finite, values, 0)
    halves = values.reshape(-1).view(mx.uint32) >> 16
    histogram = mx.zeros(count, dtype=mx.int32)
    return (
        histogram.at[table[halves]].add(finite.reshape(-1).astype(mx.int32)),
        finite.astype(mx.int32).sum(axis=2),
        safe.sum(axis=2),
        mx.square(safe).sum(axis=2),
        mx.where(finite, values, mx.inf).min(axis=(0, 2)),
        mx.where(finite, values, -mx.inf).max(axis=(0, 2)),
        mx.array(values.size),
    )


def _reduction(
    histogram: np.ndarray,
    finite: np.ndarray,
    sums: np.ndarray,
    squares: np.ndarray,
    feature_min: np.ndarray,
    feature_max: np.ndarray,
    size: np.ndarray,
) -> Reduction:
    value_count = finite.sum(axis=(0, 2), dtype=np.int64)
    return Reduction(
        histogram=histogram.astype(np.int64),
        non_finite=int(size) - int(value_count.sum()),
        value_count=value_count,
        value_sum=sums.sum(axis=(0, 2), dtype=np.float64),
        square_sum=squares.sum(axis=(0, 2), dtype=np.float64),
        feature_min=feature_min,
        feature_max=feature_max,
    )

"""Looking at the values that flow through DiffusionKit's transformer, without a trace in it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from calibzarr.models.base import Layer, Receive
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
        RuntimeError: when the block ends, if a layer was never called; names it.
    """
    if reduce_arrays is None:
        on_gpu = mx.default_device().type == mx.DeviceType.gpu
        reduce_arrays = reduce_on_device if on_gpu else reduce_on_host
    modules = dict(mmdit.named_modules())
    linear_index = {id(modules[v.module]): i for i, v in enumerate(layers) if v.role == "input"}
    outputs: dict[int, list[int]] = {}
    for index, layer in enumerate(layers):
        if layer.role == "output":
            outputs.setdefault(id(modules[layer.module]), []).append(index)
    pending: dict[int, tuple[mx.array, list[int]]] = {}  # by identity: shared arrays meet here
    seen: set[int] = set()

    def tap(values: mx.array, index: int) -> None:
        pending.setdefault(id(values), (values, []))[1].append(index)

    def flush() -> None:
        arrays = [
            _by_image(values, num_images).astype(mx.float32) for values, _ in pending.values()
        ]
        reductions = reduce_arrays(arrays, bins)
        for (_, indices), reduction in zip(pending.values(), reductions, strict=True):
            receive(indices, reduction)
            seen.update(indices)
        pending.clear()

    def linear_call(original: Callable, module: nn.Module, x: mx.array) -> mx.array:
        if (index := linear_index.get(id(module))) is not None:
            tap(x, index)
        return original(module, x)

    def block_call(original: Callable, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = original(module, *args, **kwargs)
        streams = result if isinstance(result, tuple) else (result,)
        for values, index in zip(streams, outputs.get(id(module), []), strict=False):
            tap(values, index)
        flush()
        return result

    with (
        _patched(nn.Linear, linear_call),
        _patched(kit.mmdit.MultiModalTransformerBlock, block_call),
        _patched(kit.mmdit.UnifiedTransformerBlock, block_call),
    ):
        yield
        flush()
    silent = [layer.name for index, layer in enumerate(layers) if index not in seen]
    if silent:
        raise RuntimeError(
            f"{len(silent)} of {len(layers)} layers were never called, the first is {silent[0]}"
        )


@contextmanager
def _patched(class_: type, call: Callable) -> Iterator[None]:
    original = class_.__call__

    def patched(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return call(original, module, *args, **kwargs)

    class_.__call__ = patched  # type: ignore[method-assign]
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
    parts = [_device_parts(array, table, bins.count) for array in arrays]
    mx.eval(parts)
    return [_reduction(*(np.asarray(part) for part in own)) for own in parts]


def _device_parts(values: mx.array, table: mx.array, count: int) -> tuple[mx.array, ...]:
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

"""The baseline of collecting: sampled values of whole arrays in Python lists, kept in part."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from calibzarr.models.compatibility import import_diffusionkit

kit: Any = import_diffusionkit()

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
_SAMPLE = 10_000  # values of each array
_KEPT = 100_000  # values of each layer: the last ones


class OldCollector:
    """Keeps extremes and a sample of each layer's values, by hooks that do run.

    Args:
        linears: whether to look at what enters every linear layer as well, and at both streams;
            else at what the image stream has after each block, as the old script did.
    """

    def __init__(self, *, linears: bool) -> None:
        self.linears = linears
        self.values: dict[str, list[float]] = defaultdict(list)
        self.extremes: dict[str, tuple[float, float]] = {}

    @contextmanager
    def hooked(self, mmdit: nn.Module) -> Iterator[None]:
        """Look at every block that is called in this context."""
        names = {id(module): name for name, module in mmdit.named_modules()}
        block, linear = kit.mmdit.MultiModalTransformerBlock, nn.Linear
        call_block, call_linear = block.__call__, linear.__call__

        def observed_block(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            streams = call_block(module, *args, **kwargs)
            for number, values in enumerate(streams if self.linears else streams[:1]):
                if values is not None:  # the last block has no text to give
                    self.update(f"{names[id(module)]}.{number}", values)
            return streams

        def observed_linear(module: Any, x: mx.array) -> mx.array:
            if id(module) in names:
                self.update(names[id(module)], x)
            return call_linear(module, x)

        with ExitStack() as stack:
            stack.enter_context(patch.object(block, "__call__", observed_block))
            if self.linears:
                stack.enter_context(patch.object(linear, "__call__", observed_linear))
            yield

    def update(self, name: str, values: mx.array) -> None:
        """Copy an array and keep a sample of it."""
        flat = np.array(values).flatten()
        low, high = self.extremes.get(name, (np.inf, -np.inf))
        self.extremes[name] = min(low, flat.min()), max(high, flat.max())
        if len(flat) > _SAMPLE:
            flat = flat[np.random.choice(len(flat), _SAMPLE, replace=False)]
        self.values[name].extend(flat.tolist())
        if len(self.values[name]) > _KEPT:
            self.values[name] = self.values[name][-_KEPT:]

    def statistics(self) -> dict[str, dict[str, float]]:
        """What the old file held of each layer."""
        result = {}
        for name, sample in self.values.items():
            values, (low, high) = np.array(sample), self.extremes[name]
            result[name] = {
                "min": float(low),
                "max": float(high),
                "mean": float(values.mean()),
                "std": float(values.std()),
                **{f"p{p:02d}": float(np.percentile(values, p)) for p in PERCENTILES},
            }
        return result

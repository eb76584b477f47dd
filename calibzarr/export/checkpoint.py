"""Quantized checkpoints: the files that ``mlx.nn.quantize`` and mlx-lm load."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibzarr.errors import Message, TakenError, disk_full_named
from calibzarr.export.writing import as_json
from calibzarr.models.base import Layer
from calibzarr.models.quantized.checkpointable import CheckpointableModel, Parameters
from calibzarr.models.quantized.layout import CARD, CONFIG, T5, TRANSFORMER
from calibzarr.quantization.packing import packed
from calibzarr.quantization.quantizers import Quantizer
from calibzarr.storage import durable, tensors
from calibzarr.storage.tensors import TensorShape

METADATA = {"format": "mlx"}
DEFAULTS = {"group_size": 64, "bits": 4}  # mlx-lm wants some; every path says its own

Levels = Callable[[Layer], np.ndarray]
"""``levels(layer)``: shape (output, feature), uint8."""

Scales = Callable[[Layer], tuple[np.ndarray, np.ndarray]]
"""``scale, bias = scales(layer)``: shape (output, group), float32 of values of 16 bits."""


@dataclass(frozen=True)
class Choice:
    """How each linear layer of a module is quantized.

    Attributes:
        layers: the linear layers, in order of depth.
        quantizers: of each one's weight, in groups; None where it stays as it is.
    """

    layers: tuple[Layer, ...]
    quantizers: tuple[Quantizer | None, ...]

    def entry(self) -> dict[str, Any]:
        """The ``quantization`` entry of mlx-lm's ``config.json``."""
        return {
            **DEFAULTS,
            **{
                layer.module: False
                if quantizer is None
                else {"group_size": quantizer.group_size, "bits": quantizer.bits}
                for layer, quantizer in zip(self.layers, self.quantizers, strict=True)
            },
        }

    def quantized(self) -> Iterator[tuple[Layer, Quantizer]]:
        """The layers that do not stay as they are."""
        for layer, quantizer in zip(self.layers, self.quantizers, strict=True):
            if quantizer is not None:
                yield layer, quantizer


def uniform(module: Parameters, bits: int) -> Choice:
    """The same bits, in groups of 64, for each linear layer whose width they divide."""
    layers = tuple(layer for layer in module.layers() if layer.role == "input")
    quantizer = Quantizer("weight", f"mlx-{DEFAULTS['group_size']}", bits)
    return Choice(
        layers, tuple(quantizer if quantizer.fits(layer.features) else None for layer in layers)
    )


def shapes(
    parameters: Mapping[str, tuple[str, tuple[int, ...]]], choice: Choice
) -> dict[str, TensorShape]:
    """What a checkpoint's file holds.

    Args:
        parameters: dtype and shape of those of the model, by path.
        choice: how it is quantized.
    """
    quantizers = {f"{layer.module}.weight": quantizer for layer, quantizer in choice.quantized()}
    found = {}
    for path, (dtype, shape) in parameters.items():
        if (quantizer := quantizers.get(path)) is None:
            found[path] = TensorShape(dtype, shape)
            continue
        outputs, features = shape
        assert quantizer.group_size is not None
        prefix = path.removesuffix("weight")
        found[path] = TensorShape("U32", (outputs, features * quantizer.bits // 32))
        for name in ("scales", "biases"):
            found[prefix + name] = TensorShape(dtype, (outputs, features // quantizer.group_size))
    return found


def file_size(tensor_shapes: Mapping[str, TensorShape]) -> int:
    """Bytes of a part's file, everything counted."""
    header = tensors.header(tensor_shapes, METADATA)
    return len(header) + sum(tensor.num_bytes for tensor in tensor_shapes.values())


def check_free(path: Path) -> None:
    """Check that nothing stands where a checkpoint would go.

    Raises:
        TakenError: if something does.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise TakenError(f"{path} exists already; choose another name, or remove it")


def write(
    path: Path,
    model: CheckpointableModel,
    choice: Choice,
    levels: Levels,
    config: Mapping[str, Any],
    card: Callable[[Path], str],
    scales: Scales | None = None,
    t5: Choice | None = None,
) -> None:
    """Write a checkpoint aside, and give it its name when it is whole.

    Args:
        path: directory to make.
        model: to quantize, unquantized.
        choice: how.
        levels: gives those of the layers that are quantized.
        config: what ``config.json`` is to say beside how layers are quantized.
        card: gives the text of ``README.md``; called with the directory, which holds all the rest.
        scales: gives scales and biases of those layers; None for those of ``mx.quantize``.
        t5: how its T5 is quantized, rounded to the nearest level; None where it stays as it is.

    Raises:
        TakenError: if something stands there.
        DiskFullError: if there is no room; nothing is left of it.
        OSError: if it cannot be written.
    """
    check_free(path)
    entries = {TRANSFORMER: choice} if t5 is None else {TRANSFORMER: choice, T5: t5}
    consequence = Message(f"nothing of {path} is left; make room, then go on")
    with disk_full_named(lambda: consequence), durable.new_directory(path) as directory:
        _write(directory / TRANSFORMER.weights, _Rounded(model, choice, levels, scales))
        if t5 is not None and (encoder := model.t5()) is not None:
            _write(directory / T5.weights, _Rounded(encoder, t5))
            del encoder  # of gigabytes, while the card is made
        content = {**config, **{part.entry: chosen.entry() for part, chosen in entries.items()}}
        (directory / CONFIG).write_bytes(as_json(content))
        (directory / CARD).write_text(card(directory), encoding="utf-8")
        for name in (*(part.weights for part in entries), CONFIG, CARD):
            durable.flush_file(directory / name)


def _write(path: Path, rounded: "_Rounded") -> None:
    with path.open("xb") as file:
        tensors.write(file, rounded.shapes(), rounded.tensors(), METADATA)


@dataclass(frozen=True)
class _Rounded:
    """A module, and what its linear layers are rounded to: None for what ``mx.quantize`` does."""

    module: Parameters
    choice: Choice
    levels: Levels | None = None
    scales: Scales | None = None

    def shapes(self) -> dict[str, TensorShape]:
        return shapes(self.module.parameters(), self.choice)

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        quantized = {f"{pair[0].module}.weight": pair for pair in self.choice.quantized()}
        for path, (dtype, _) in self.module.parameters().items():
            if path not in quantized:
                yield path, self.module.parameter(path)
                continue
            layer, quantizer = quantized[path]
            assert quantizer.group_size is not None
            group_size, bits = quantizer.group_size, quantizer.bits
            nearest, *parts = self.module.levels_of_weight(layer, group_size, bits)
            if self.scales is not None:
                parts = list(self.scales(layer))
            yield path, packed(nearest if self.levels is None else self.levels(layer), bits)
            for name, values in zip(("scales", "biases"), parts, strict=True):
                yield path.removesuffix("weight") + name, sixteen_bits(values, dtype)


def sixteen_bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """The bits of float32 values that have no more than ``F16`` or ``BF16`` holds, uint16."""
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16).view(np.uint16)

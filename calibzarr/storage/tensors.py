"""Safetensors files, written one tensor after the other: memory holds a single one."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

_ITEM_SIZES = {"F16": 2, "BF16": 2, "F32": 4, "U32": 4}
_ALIGNMENT = 8


@dataclass(frozen=True)
class TensorShape:
    """What the header says of a tensor.

    Attributes:
        dtype: ``F16``, ``BF16``, ``F32`` or ``U32``.
        shape: of the tensor.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """In the file, without the header."""
        return math.prod(self.shape) * _ITEM_SIZES[self.dtype]


def header(shapes: Mapping[str, TensorShape], metadata: Mapping[str, str]) -> bytes:
    """The beginning of a file, up to the first tensor."""
    content: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in shapes.items():
        end = offset + tensor.num_bytes
        content[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def write(
    file: BinaryIO,
    shapes: Mapping[str, TensorShape],
    tensors: Iterable[tuple[str, np.ndarray]],
    metadata: Mapping[str, str],
) -> None:
    """Write a file.

    Args:
        file: to write, empty.
        shapes: of all tensors, in the order of ``tensors``.
        tensors: values by name; bfloat16 as the uint16 of its bits.
        metadata: of the whole file.

    Raises:
        ValueError: if a tensor is not what ``shapes`` says.
        OSError: if it cannot be written.
    """
    file.write(header(shapes, metadata))
    names: Sequence[str] = list(shapes)
    for position, (name, values) in enumerate(tensors):
        expected = shapes[name]
        if names[position] != name or values.nbytes != expected.num_bytes:
            raise ValueError(f"{name} of shape {values.shape} is not {expected}")
        file.write(np.ascontiguousarray(values).data)

"""One image's states in one shard, by Zarr's sharding codec, without the way through zarr.

zarr-python spends milliseconds on each inner chunk, a state takes a tenth of one to decode. This
writes the bytes that zarr would write, and reads any shard of that form; everything else about
a store goes through zarr. See the specification of ``sharding_indexed`` in Zarr 3.
"""

import os
import struct
import sys
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc
from xarray.backends import BackendArray
from xarray.core import indexing

from calibzarr import schema

_ENTRY = 16  # bytes of a state's offset and length in the index, which ends a shard
_CHECKSUM = 4
_BLOSC_HEADER = struct.Struct("<4xI4xI")  # decoded and encoded bytes
_ABSENT = 2**64 - 1  # offset of a state that is not stored: all fill value


def file_name(image: int) -> str:
    """Name of an image's shard among the files of ``latents``."""
    return ".".join(["c", str(image)] + ["0"] * (len(schema.LATENTS.dims) - 1))


def encode(states: np.ndarray) -> bytes:
    """The shard of one image's states.

    Args:
        states: shape (step, channel, height, width), float32 or float16.
    """
    level = schema.LATENTS.compression_level
    chunks = [
        blosc.compress(np.ascontiguousarray(state), b"zstd", level, blosc.BITSHUFFLE)
        for state in states
    ]
    lengths = np.array([len(chunk) for chunk in chunks], dtype="<u8")
    offsets = np.cumsum(lengths, dtype="<u8") - lengths
    index = np.stack([offsets, lengths], axis=1).astype("<u8").tobytes()
    checksum = google_crc32c.value(index).to_bytes(_CHECKSUM, "little")
    return b"".join([*chunks, index, checksum])


def read_states(path: Path, num_states: int, steps: np.ndarray, states: np.ndarray) -> None:
    """Read some states of a shard; NaN where the file, or a state in it, is not there.

    Args:
        path: file of the shard.
        num_states: states that a shard has room for.
        steps: indices of the states to read, shape (state,).
        states: what to fill, shape (len(steps), channel, height, width), C-contiguous.

    Raises:
        ValueError: if the shard is damaged; names it.
    """
    states.fill(np.nan)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        size = os.fstat(descriptor).st_size
        index = _read_index(descriptor, size, num_states)
        whole = os.pread(descriptor, size, 0) if len(steps) == num_states else None
        for target, step in zip(states, steps, strict=True):
            offset, length = (int(number) for number in index[step])
            if offset == _ABSENT:
                continue
            end = offset + length
            chunk = os.pread(descriptor, length, offset) if whole is None else whole[offset:end]
            _decode(chunk, target)
    except (ValueError, OverflowError, RuntimeError) as error:  # numcodecs' own is the last
        raise ValueError(f"{path} is damaged: {error}") from None
    finally:
        os.close(descriptor)


def _read_index(descriptor: int, size: int, num_states: int) -> np.ndarray:
    """Offset and length of each state, shape (step, 2)."""
    length = _ENTRY * num_states
    tail = os.pread(descriptor, length + _CHECKSUM, max(size - length - _CHECKSUM, 0))
    if google_crc32c.value(tail[:length]) != int.from_bytes(tail[length:], "little"):
        raise ValueError("the checksum of its index does not match")
    return np.frombuffer(tail[:length], dtype="<u8").reshape(num_states, 2)


def _decode(chunk: bytes, target: np.ndarray) -> None:
    if len(chunk) < _BLOSC_HEADER.size:
        raise ValueError("a state is cut off")
    decoded, stored = _BLOSC_HEADER.unpack_from(chunk)  # decompressing would trust both
    if (decoded, stored) != (target.nbytes, len(chunk)):
        raise ValueError(f"a state of {target.nbytes} bytes is stored as one of {decoded}")
    blosc.decompress(chunk, target)


class Latents(BackendArray):
    """``latents`` of a local store, read on use, for xarray's lazy indexing.

    Args:
        directory: of the variable.
        shape: (image, step, channel, height, width).
        dtype: of the values.
    """

    def __init__(self, directory: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.directory = directory
        self.shape = shape
        self.dtype = dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        images, steps = (
            np.atleast_1d(np.arange(size)[own])
            for own, size in zip(key[:2], self.shape[:2], strict=True)
        )
        states = np.empty((len(images), len(steps), *self.shape[2:]), self.dtype)
        for target, image in zip(states, images, strict=True):
            read_states(self.directory / file_name(image), self.shape[1], steps, target)
        done = [0 if isinstance(own, int | np.integer) else slice(None) for own in key[:2]]
        for axis, own in reversed(list(enumerate([*done, *key[2:]]))):  # one axis at a time
            states = states[(slice(None),) * axis + (own,)]
        return states


def is_ours(metadata: dict[str, Any]) -> bool:
    """Whether an array's metadata describe shards of the form that this module reads."""
    if len(metadata["codecs"]) != 1 or metadata["codecs"][0]["name"] != "sharding_indexed":
        return False
    sharding = metadata["codecs"][0]["configuration"]
    inner = [codec["name"] for codec in sharding["codecs"]]
    index = [codec["name"] for codec in sharding["index_codecs"]]
    return (
        sharding.get("index_location", "end") == "end"
        and inner == ["bytes", "blosc"]
        and index == ["bytes", "crc32c"]
        and sharding["chunk_shape"][:2] == [1, 1]
        and sharding["chunk_shape"][2:] == metadata["shape"][2:]
        and metadata["chunk_key_encoding"]["configuration"]["separator"] == "."
        and sys.byteorder == "little"
    )

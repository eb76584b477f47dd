"""One image's states in one shard, by Zarr's sharding codec, without the way through zarr.

zarr-python spends milliseconds on each inner chunk, a state takes a tenth of one to decode. This
writes the bytes that zarr would write, and reads any shard of that form; everything else about
a store goes through zarr. See the specification of ``sharding_indexed`` in Zarr 3.

Each state ends with a checksum of its own, Zarr's ``crc32c`` codec: most flipped bits would decode
without an error. Shards of stores that were begun without them are read and written as they are.

A shard begins with the SHA-256 of its image's picture, 32 bytes that no entry of the index points
to, so that no reader sees them: which picture belongs to which states. Those of 0.1 are without.
"""

import os
import struct
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc

from calibzarr.errors import StoreError
from calibzarr.storage import durable, schema

_HEAD = 32  # bytes of the picture's SHA-256
_ENTRY = 16  # bytes of a state's offset and length in the index, which ends a shard
_CHECKSUM = 4
_CHECKSUM_CODEC = "crc32c"
_BLOSC_HEADER = struct.Struct("<4xI4xI")  # decoded and encoded bytes
_ABSENT = 2**64 - 1  # offset of a state that is not stored: all fill value


def encode(states: np.ndarray, *, checksums: bool = True, head: bytes = b"") -> bytes:
    """The shard of one image's states.

    Args:
        states: shape (step, channel, height, width), float32 or float16.
        checksums: whether each state gets its own, as the array's metadata say.
        head: the SHA-256 of the file of its picture.
    """
    level = schema.LATENTS.compression_level
    chunks = [
        blosc.compress(np.ascontiguousarray(state), b"zstd", level, blosc.BITSHUFFLE)
        for state in states
    ]
    ends = [_checksum(chunk) if checksums else b"" for chunk in chunks]
    lengths = np.array([len(c) + len(e) for c, e in zip(chunks, ends, strict=True)], dtype="<u8")
    offsets = len(head) + np.cumsum(lengths, dtype="<u8") - lengths
    index = np.stack([offsets, lengths], axis=1).astype("<u8").tobytes()
    return b"".join(
        [head, *chain.from_iterable(zip(chunks, ends, strict=True)), index, _checksum(index)]
    )


def _checksum(data: bytes | np.ndarray) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(_CHECKSUM, "little")


def read_states(
    path: Path,
    metadata: Mapping[str, Any],
    images: Sequence[int] | np.ndarray,
    steps: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Read states of some images; NaN where one is not there.

    Args:
        path: directory of the store.
        metadata: of ``latents``; shards of any other form are left to zarr.
        images: their indices.
        steps: indices of the states; None for all.

    Returns:
        Shape (image, step, channel, height, width), the store's dtype.

    Raises:
        StoreError: if a shard is damaged; names it.
    """
    num_states, *shape = metadata["shape"][1:]
    steps = np.arange(num_states) if steps is None else np.asarray(steps)
    directory = path / schema.LATENTS.name
    if not is_ours(metadata):
        latents = zarr.open_array(directory, mode="r")
        return np.asarray(latents.oindex[np.asarray(images), steps])
    states = np.empty((len(images), len(steps), *shape), metadata["data_type"])
    checksums = has_checksums(metadata)
    for target, image in zip(states, images, strict=True):
        read_shard(
            directory / schema.LATENTS.key(image), num_states, steps, target, checksums=checksums
        )
    return states


def read_shard(
    path: Path, num_states: int, steps: np.ndarray, states: np.ndarray, *, checksums: bool = True
) -> None:
    """Read some states of a shard; NaN where the file, or a state in it, is not there.

    Args:
        path: file of the shard.
        num_states: states that a shard has room for.
        steps: indices of the states to read, shape (state,).
        states: what to fill, shape (len(steps), channel, height, width), C-contiguous.
        checksums: whether each state has its own, as the array's metadata say.

    Raises:
        StoreError: if the shard is damaged; names it.
    """
    states.fill(np.nan)
    try:
        descriptor = durable.open_regular(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path} is damaged: it {error.strerror}") from None
    try:
        size = os.fstat(descriptor).st_size
        index = _read_index(descriptor, size, num_states)
        for target, step in zip(states, steps, strict=True):
            offset, length = (int(number) for number in index[step])
            if offset == _ABSENT:
                continue
            chunk = np.frombuffer(os.pread(descriptor, min(length, size), offset), np.uint8)
            try:
                _decode(chunk, target, checksums=checksums)
            except (ValueError, RuntimeError) as error:  # the latter is numcodecs' own
                raise ValueError(f"state {step}: {error}") from None
    except (ValueError, OverflowError) as error:
        raise StoreError(f"{path} is damaged: {error}") from None
    finally:
        os.close(descriptor)


def picture_sha256(path: Path, num_states: int) -> bytes | None:
    """SHA-256 of the picture that belongs to a shard's states; None where the shard has none.

    Raises:
        StoreError: if the shard is damaged.
    """
    try:
        descriptor = durable.open_regular(path)
        with os.fdopen(descriptor, "rb") as file:
            index = _read_index(descriptor, os.fstat(descriptor).st_size, num_states)
            return file.read(_HEAD) if index[:, 0].min() == _HEAD else None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is damaged: {error}") from None


def _read_index(descriptor: int, size: int, num_states: int) -> np.ndarray:
    """Offset and length of each state, shape (step, 2)."""
    length = _ENTRY * num_states
    tail = os.pread(descriptor, length + _CHECKSUM, max(size - length - _CHECKSUM, 0))
    if len(tail) < length + _CHECKSUM or _checksum(tail[:length]) != tail[length:]:
        raise ValueError("the checksum of its index does not match")
    return np.frombuffer(tail[:length], dtype="<u8").reshape(num_states, 2)


def _decode(chunk: np.ndarray, target: np.ndarray, *, checksums: bool) -> None:
    if checksums:
        chunk, checksum = chunk[:-_CHECKSUM], chunk[-_CHECKSUM:]
        if _checksum(chunk) != checksum.tobytes():
            raise ValueError("its checksum does not match")
    if len(chunk) < _BLOSC_HEADER.size:
        raise ValueError("it is cut off")
    decoded, stored = _BLOSC_HEADER.unpack_from(chunk.data)  # decompressing would trust both
    if (decoded, stored) != (target.nbytes, len(chunk)):
        raise ValueError(f"its {target.nbytes} bytes are stored as {decoded}")
    blosc.decompress(chunk, target)


def is_ours(metadata: Mapping[str, Any]) -> bool:
    """Whether an array's metadata describe shards of the form that this module reads."""
    if len(metadata["codecs"]) != 1 or metadata["codecs"][0]["name"] != "sharding_indexed":
        return False
    sharding = metadata["codecs"][0]["configuration"]
    inner = [codec["name"] for codec in sharding["codecs"]]
    index = [codec["name"] for codec in sharding["index_codecs"]]
    return (
        sharding.get("index_location", "end") == "end"
        and inner in (["bytes", "blosc"], ["bytes", "blosc", _CHECKSUM_CODEC])
        and index == ["bytes", _CHECKSUM_CODEC]
        and sharding["chunk_shape"][:2] == [1, 1]
        and sharding["chunk_shape"][2:] == metadata["shape"][2:]
        and metadata["chunk_key_encoding"]["configuration"]["separator"] == "."
        and sys.byteorder == "little"
    )


def has_checksums(metadata: Mapping[str, Any]) -> bool:
    """Whether each state has a checksum, by the metadata of an array that :func:`is_ours`."""
    inner = metadata["codecs"][0]["configuration"]["codecs"]
    return bool(inner[-1]["name"] == _CHECKSUM_CODEC)

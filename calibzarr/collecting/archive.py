"""Archives that keep what is unfinished: arrays below a JSON header, read within bounds.

An archive is a zip file of ``.npy`` files that are not compressed, as ``np.savez`` writes it: each
has a CRC-32, and none declares more values than it has bytes. What is read is of the type and shape
that the reader expects, or refused by file and field.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from calibzarr.errors import Call, Message, StoreError, TakenError
from calibzarr.storage import durable

PLAN = "plan.json"
_HEADER = "header"
_MOST_HEADER_BYTES = 2**24
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_DAMAGES = (  # as zipfile and NumPy tell of them
    zipfile.BadZipFile,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def write(path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write an archive whole, in the place of any that there is.

    Args:
        path: of the file.
        header: JSON types only.
        arrays: by name, none of them of objects.

    Raises:
        OSError: if it cannot be written; what stood there stays.
    """
    told = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with durable.new_file(path) as file:
        np.savez(file, **{_HEADER: told}, **arrays)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Archive:
    """An open archive.

    Attributes:
        path: of the file.
        header: what it says.
        shapes: dtype and shape of each array, by name.
        remedy: what to do if it is damaged.
    """

    path: Path
    header: dict[str, Any]
    shapes: Mapping[str, tuple[np.dtype, tuple[int, ...]]]
    remedy: Message
    _zip: zipfile.ZipFile

    def field(self, name: str, *types: type) -> Any:
        """A field of the header.

        Raises:
            StoreError: if it is missing, or of none of these types.
        """
        if name not in self.header:
            raise _damaged(self.path, f"{name} is missing", self.remedy)
        value = self.header[name]
        if type(value) not in types:
            raise self.wrong(name, " or ".join(kind.__name__ for kind in types))
        return value

    def indices(self, name: str, below: int) -> tuple[int, ...]:
        """Different indices that a field of the header lists.

        Raises:
            StoreError: if it lists anything else, or one that is not below ``below``.
        """
        value = self.field(name, list)
        right = all(type(index) is int and 0 <= index < below for index in value)
        if not right or len(set(value)) < len(value):
            raise self.wrong(name, f"different indices below {below}")
        return tuple(value)

    def shape(self, name: str, num_dims: int) -> tuple[int, ...]:
        """Shape of an array, where nothing else tells how large it is.

        Raises:
            StoreError: if there is none, or of other dimensions.
        """
        _, shape = self.shapes.get(name, (None, ()))
        if len(shape) != num_dims:
            raise self._unlike(name, f"of shape {shape}", f"of {num_dims} dimensions")
        return shape

    def array(self, name: str, dtype: np.typing.DTypeLike, shape: tuple[int, ...]) -> np.ndarray:
        """Values of an array.

        Raises:
            StoreError: if there is none of this dtype and shape, or it is damaged.
        """
        found = self.shapes.get(name)
        if found != (np.dtype(dtype), shape):
            told = "nothing" if found is None else f"{found[0]} of shape {found[1]}"
            raise self._unlike(name, told, f"{np.dtype(dtype)} of shape {shape}")
        try:
            with self._zip.open(f"{name}.npy") as stream:
                return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
        except _DAMAGES as error:
            raise _damaged(self.path, f"{name} {_reason(error)}", self.remedy) from None

    def wrong(self, name: str, allowed: str) -> StoreError:
        """The error that tells of a field of the header."""
        return self._unlike(name, str(self.header[name])[:60], allowed)

    def _unlike(self, name: str, found: str, allowed: str) -> StoreError:
        return _damaged(self.path, f"{name} is {found}, not {allowed}", self.remedy)


@contextmanager
def opened(path: Path, remedy: Message) -> Iterator[Archive | None]:
    """Open an archive; None where there is none.

    Args:
        path: of the file.
        remedy: what to do if it is damaged, for the error.

    Raises:
        StoreError: if it is no regular file, or no such archive.
    """
    file = _opened_file(path, remedy)
    if file is None:
        yield None
        return
    with file:
        try:
            archive = _parsed(path, file, remedy)
        except _DAMAGES as error:
            raise _damaged(path, f"content {_reason(error)}", remedy) from None
        yield archive


def prepare(directory: Path, plan: Mapping[str, Any]) -> None:
    """Make a directory for archives of one plan; those of another plan are removed.

    Args:
        directory: where they are to be.
        plan: what they are of, JSON types only.

    Raises:
        TakenError: if it holds anything without a plan: it is somebody else's.
        StoreError: if its plan is damaged.
        OSError: if it cannot be written.
    """
    told, file = json.dumps(plan, indent=2).encode(), directory / PLAN
    entries = list(directory.iterdir()) if directory.exists() else []
    durable.remove_abandoned(entries)
    try:
        known = durable.read(file, _MOST_HEADER_BYTES)
        if known == told:
            return
        if not isinstance(json.loads(known), dict):
            raise ValueError("no JSON object")
    except FileNotFoundError:
        if any(entry.exists() for entry in entries):
            raise TakenError(f"{directory} holds something else; move it elsewhere") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, f"content {_reason(error)}", remedy(directory)) from None
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    durable.write(file, told)


def remedy(path: Path, again: Call | None = None) -> Message:
    """What to do about a damaged archive: what it was to go on with is begun again.

    Args:
        path: of the file.
        again: what starts over altogether, if something does.
    """
    over = () if again is None else (", or start over with: ", again)
    return Message(f"remove {path.name} to go on without it", *over)


def _opened_file(path: Path, remedy: Message) -> BinaryIO | None:
    try:
        return os.fdopen(durable.open_regular(path), "rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(path, f"content {_reason(error)}", remedy) from None


def _parsed(path: Path, file: BinaryIO, remedy: Message) -> Archive:
    archive = zipfile.ZipFile(file)
    shapes = {}
    for member in archive.infolist():
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"has {member.filename} compressed")
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            shape, _, dtype = _READERS[version](stream)
            if stream.tell() + dtype.itemsize * _count(shape) != member.file_size:
                raise ValueError(f"has {member.filename} of another size than it declares")
        shapes[member.filename.removesuffix(".npy")] = dtype, shape
    dtype, shape = shapes[_HEADER]
    if dtype != np.uint8 or _count(shape) > _MOST_HEADER_BYTES:
        raise ValueError("has no header")
    with archive.open(f"{_HEADER}.npy") as stream:
        header = json.loads(np.lib.format.read_array(stream, allow_pickle=False).tobytes())
    if not isinstance(header, dict):
        raise ValueError("has a header that is no JSON object")
    return Archive(path, header, shapes, remedy, archive)


def _count(shape: tuple[int, ...]) -> int:
    """Values of an array; Python's numbers do not overflow."""
    count = 1
    for size in shape:
        count *= max(size, 0)
    return count


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"cannot be read ({error or type(error).__name__})"


def _damaged(path: Path, why: str, remedy: Message) -> StoreError:
    return StoreError(f"{path} is damaged: its {why}; ", remedy)

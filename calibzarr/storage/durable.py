"""Writing files so that a power cut or a kill leaves either the old bytes or the new."""

import asyncio
import errno
import fcntl
import os
import re
import shutil
import stat
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import LocalStore

from calibzarr.errors import disk_full_named

_WRITTEN_TOGETHER = 32  # files
_PARTIAL = re.compile(r".+\.[0-9a-f]{32}\.partial")
MAX_BYTES = 2**31  # of a file that is read whole


def read(path: Path, most_bytes: int = MAX_BYTES) -> bytes:
    """Read a regular file whole; anything else, such as a pipe or a device, is not opened for long.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if it is no regular file, larger than ``most_bytes``, or cannot be read.
    """
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        if size > most_bytes:
            message = f"it has {size} bytes, more than the {most_bytes} that are read"
            raise OSError(errno.EFBIG, message, str(path))
        return file.read(size)


def open_regular(path: Path) -> int:
    """Open a regular file to read; return its descriptor.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if it is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for its writer
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return descriptor


def partial_path(path: Path) -> Path:
    """Where a file or directory is made before it takes its name: beside it, unlike any other."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to fill that takes the name ``path``, on the disk, when the block ends.

    Its directory must be there: a store that was moved away is not begun anew.

    Raises:
        OSError: if it cannot be written. What stood under the name stays.
    """
    partial = partial_path(path)
    try:
        with _claimed(partial) as file:
            yield file
            file.flush()
            _flush_descriptor(file.fileno())
            partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    flush_directory(path.parent)


def write(path: Path, data: bytes | memoryview) -> None:
    """Write a file whole: on the disk first, then under its name; its directory, too, if need be.

    Raises:
        OSError: if it cannot be written. What stood under the name stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as file:
        file.write(data)


def write_result(path: Path, content: bytes) -> None:
    """Write a file that a user asked for, as :func:`write` does.

    Raises:
        DiskFullError: if there is no room; says what stays.
        OSError: if it cannot be written otherwise. What stood under the name stays.
    """
    there = "stays as it was" if path.exists() else "is not written"
    with disk_full_named(lambda: f"{path} {there}; make room, then give the same command again"):
        write(path, content)


def write_all(files: Iterable[tuple[Path, bytes]]) -> None:
    """Write many files, each as :func:`write` does, but waiting for the disk only now and then.

    Args:
        files: where to, and what; in directories that exist.

    Raises:
        OSError: if one cannot be written. Some of those before it may have got their names.
    """
    remaining = iter(files)
    while group := list(islice(remaining, _WRITTEN_TOGETHER)):
        partials = [(partial_path(path), path) for path, _ in group]
        with ExitStack() as stack:
            for partial, _ in partials:
                stack.callback(partial.unlink, missing_ok=True)
            descriptors = []
            for (partial, _), (_, data) in zip(partials, group, strict=True):
                file = stack.enter_context(_claimed(partial))
                file.write(data)
                file.flush()
                descriptors.append(file.fileno())
            for descriptor in descriptors:
                _flush_descriptor(descriptor)
            for partial, path in partials:
                partial.replace(path)
        for directory in {path.parent for path, _ in group}:
            flush_directory(directory)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Give a directory to fill that takes the name ``path`` when the block ends.

    Raises:
        FileExistsError: if ``path`` is taken by then, by anything but an empty directory.
        OSError: if it cannot be written.
    """
    partial = partial_path(path)
    partial.mkdir()
    descriptor = os.open(partial, os.O_RDONLY)
    while not _claim(descriptor, partial):
        os.close(descriptor)
        partial.mkdir()
        descriptor = os.open(partial, os.O_RDONLY)
    try:
        yield partial
        flush_directory(partial)
        try:
            partial.rename(path)
        except OSError as error:
            if path.is_dir() and any(path.iterdir()):
                raise FileExistsError(f"{path} exists already") from error
            raise
    finally:
        os.close(descriptor)
        shutil.rmtree(partial, ignore_errors=True)
    flush_directory(path.parent)


def remove_abandoned(partials: Iterable[Path]) -> int:
    """Remove the partial files and directories whose writers are dead; return how many.

    A writer that has not claimed its own yet sees that it is gone, and makes another.
    """
    removed = 0
    for partial in partials:
        if not _PARTIAL.fullmatch(partial.name):
            continue
        try:
            descriptor = os.open(partial, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link, which no writer makes
                partial.unlink(missing_ok=True)
                removed += 1
            continue  # its writer has just given it its name
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
            removed += 1
        except OSError:  # its writer lives, or there is no telling
            continue
        finally:
            os.close(descriptor)
    return removed


@contextmanager
def locked(directory: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a directory's lock; the system drops it with the process.

    Args:
        directory: what to lock, against other holders of this lock and nothing else.
        wait: whether to wait while another process holds it.

    Raises:
        BlockingIOError: if it is held and ``wait`` is false.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:  # some network file systems have no locks
            pass
        yield
    finally:
        os.close(descriptor)


def flush_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb") as file:
        _flush_descriptor(file.fileno())


def flush_directory(path: Path) -> None:
    """Wait until a directory's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _flush_descriptor(descriptor)
    finally:
        os.close(descriptor)


def _flush_descriptor(descriptor: int) -> None:
    if sys.platform == "darwin":  # there fsync stops at the drive's own cache
        with suppress(OSError):  # not every file system can do more
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def _claimed(partial: Path) -> BinaryIO:
    """A new file under the lock that says: the writer of this lives."""
    while True:
        file = partial.open("xb")
        if _claim(file.fileno(), partial):
            return file
        file.close()


def _claim(descriptor: int, partial: Path) -> bool:
    """Take the lock, which the system drops with the process.

    Returns:
        False if somebody took it for abandoned, and removed it, meanwhile.
    """
    with suppress(OSError):  # some network file systems have no locks
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        return os.path.samestat(os.fstat(descriptor), partial.stat())
    except FileNotFoundError:
        return False


class DurableStore(LocalStore):
    """A local Zarr store in which a key appears only when its bytes are on the disk.

    Args:
        root: directory of the store.
        read_only: whether nothing may be written.
        known: bytes that were read already, by key; they are not read again.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        read_only: bool = False,
        known: Mapping[str, bytes] | None = None,
    ) -> None:
        super().__init__(root, read_only=read_only)
        self._known = known or {}

    def with_read_only(
        self,
        read_only: bool = False,  # noqa: FBT001, FBT002 - as zarr has it
    ) -> "DurableStore":
        """The same store, to be read alone or not."""
        return DurableStore(self.root, read_only=read_only, known=self._known)

    async def _open(self, **_: Any) -> None:
        self._ensure_open_sync()

    def _ensure_open_sync(self) -> None:
        if not self.root.is_dir():  # and is not made: it may have been moved away
            raise FileNotFoundError(errno.ENOENT, "there is no directory", str(self.root))
        self._is_open = True

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read what is under ``key``; None where nothing is."""
        if byte_range is None:
            data = await asyncio.to_thread(self._read, key)
            buffer = (prototype or default_buffer_prototype()).buffer
            return None if data is None else buffer.from_bytes(data)
        return await super().get(key, prototype, byte_range)

    def _read(self, key: str) -> bytes | None:
        if key in self._known:
            return self._known[key]
        try:
            return read(self.root / key)
        except (FileNotFoundError, NotADirectoryError):
            return None

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write ``value`` under ``key`` where nothing is."""
        if not await self.exists(key):
            await self.set(key, value)

    async def set(self, key: str, value: Buffer) -> None:
        """Write ``value`` under ``key``."""
        await asyncio.to_thread(self.set_sync, key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write ``value`` under ``key``."""
        if self.read_only:
            raise PermissionError(f"{self.root} was opened for reading only")
        path = self.root / key
        if path.parent != self.root:
            path.parent.mkdir(exist_ok=True)  # never the root itself
        with new_file(path) as file:
            file.write(memoryview(value.as_buffer_like()))

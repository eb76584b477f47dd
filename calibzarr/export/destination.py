"""Whether a file may be written where a user asks for it."""

from collections.abc import Iterable
from pathlib import Path

from calibzarr.errors import Option, StoreError, TakenError
from calibzarr.storage import objects


def check_free(file: Path, stores: Iterable[Path], *, force: bool) -> None:
    """Check that a file may be written, before the work.

    Args:
        file: to write.
        stores: that it must not be in.
        force: whether to overwrite it.

    Raises:
        StoreError: if it is within a store.
        OSError: if something stands there, or its directory cannot be written.
    """
    if any(store.resolve() in file.resolve().parents for store in stores):
        raise StoreError(f"{file} is within the store; name a file outside of it")
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a directory; name a file in it")
    if file.exists() and not force:
        raise TakenError(f"{file} exists already; overwrite it with ", Option("force"))
    objects.check_writable(file.parent)

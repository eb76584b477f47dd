"""Where results go: is something there, may it be written, is there room; local disks alone."""

import errno
import os
import shutil
from difflib import get_close_matches
from pathlib import Path

from rich.filesize import decimal

from calibzarr.errors import DiskFullError

STORED_FRACTION = 0.93  # of the raw bytes, measured on latents at 16x64x64
_FEW = 3  # stores that are named
_CLEARLY_TOO_LITTLE = 0.8  # of the estimate


def exists(path: Path) -> bool:
    """Whether something other than an empty directory stands at ``path``."""
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def near(path: Path) -> str:
    """Names of stores beside where none is, in words to be added to a sentence; or nothing."""
    folder = existing_parent(path)
    if (folder / "zarr.json").exists():  # within a store: its arrays are none
        return ""
    roots = (*folder.glob("*/zarr.json"), *folder.glob("stores/*/zarr.json"))
    stores = {file.parent.name: file.parent for file in roots}
    names = get_close_matches(path.name, stores, n=_FEW, cutoff=0)
    return f"; near it: {', '.join(str(stores[name]) for name in names)}" if names else ""


def existing_parent(path: Path) -> Path:
    """The path itself, or the nearest directory above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def check_writable(path: Path) -> None:
    """Check that a directory can be written, or the one that it would be created in.

    Raises:
        OSError: if not.
    """
    parent = existing_parent(path)
    if not parent.is_dir():
        raise NotADirectoryError(f"cannot create {path}: {parent} is not a directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write {path}: no write permission in {parent}")


def check_room(path: Path, needed: float, remedy: str) -> None:
    """Check that the disk is not clearly too small.

    Args:
        path: where the result goes.
        needed: estimate of its bytes.
        remedy: what to do if it is.

    Raises:
        DiskFullError: if it is.
    """
    free = shutil.disk_usage(existing_parent(path)).free
    if free < _CLEARLY_TOO_LITTLE * needed:
        raise DiskFullError(
            errno.ENOSPC,
            f"{path} needs about {decimal(int(needed))}, but the disk has {decimal(free)} free; "
            f"{remedy}",
        )

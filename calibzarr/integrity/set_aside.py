"""Damaged files are kept, where no reader of a store looks: in ``latents/damaged``."""

import os
from pathlib import Path

from calibzarr.storage import durable, schema


def directory(path: Path) -> Path:
    """Where the damaged files of the store at ``path`` are."""
    return path / schema.LATENTS.name / "damaged"


def move(path: Path, file: Path) -> bool:
    """Move a file of a store there, named after its place; return whether there was one."""
    if not os.path.lexists(file):
        return False
    make_directory(path)
    target = _free_name(path, file)
    file.rename(target)
    durable.flush_directory(target.parent)
    return True


def replace(path: Path, file: Path, content: bytes) -> None:
    """Write a file anew, and keep what it was, or what stands in its place or its folder's."""
    if file.is_file():  # a root is never missing, not for a moment
        make_directory(path)
        durable.write(_free_name(path, file), file.read_bytes())
    else:
        move(path, file if file.parent.is_dir() else file.parent)
    durable.write(file, content)


def make_directory(path: Path) -> None:
    """Make the folder of damaged files; what stands in its way becomes the first of them."""
    in_the_way = []
    for folder in (directory(path).parent, directory(path)):
        if folder.is_dir():
            continue
        if os.path.lexists(folder):
            in_the_way.append(folder.rename(folder.with_name(f"{folder.name}.moved")))
        folder.mkdir()
    for file in in_the_way:
        file.rename(_free_name(path, file))


def _free_name(path: Path, file: Path) -> Path:
    name = ".".join(file.relative_to(path).parts)
    candidates = [name, *(f"{name}.{number}" for number in range(1, 1000))]
    for candidate in candidates:
        if not (directory(path) / candidate).exists():
            return directory(path) / candidate
    raise OSError(f"{directory(path)} holds too many damaged files; move them elsewhere")

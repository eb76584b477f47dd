"""A repair that changes nothing: made on links to a store's files, and told of the store itself."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibzarr.errors import Call, Explained, Message, OptionError, StoreError


@contextmanager
def mirror(path: Path) -> Iterator[Path]:
    """A directory like another, of links to its files: what is written there stays there."""
    if not path.is_dir():
        yield path  # to be refused
        return
    with tempfile.TemporaryDirectory(prefix="calibzarr-") as temporary:
        mirror = Path(temporary) / path.resolve().name
        for source, _, files in os.walk(path.resolve()):
            target = mirror / Path(source).relative_to(path.resolve())
            target.mkdir()
            for name in files:
                (target / name).symlink_to(Path(source) / name)
        yield mirror


def of_store(told: Any, mirror: Path, path: Path) -> Any:
    """An error, a message, or part of one, about a mirror as one about the store itself."""
    if isinstance(told, Exception):
        kind = OptionError if isinstance(told, OptionError) else StoreError
        message = told.message if isinstance(told, Explained) else Message(str(told))
        return kind(of_store(message, mirror, path))
    if isinstance(told, Message):
        return Message(*(of_store(part, mirror, path) for part in told.parts))
    if isinstance(told, Call):
        words = tuple(path if word == mirror else word for word in told.arguments)
        return replace(told, arguments=words)
    return told.replace(str(mirror), str(path)) if isinstance(told, str) else told

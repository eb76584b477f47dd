"""A repair that changes nothing: made on links to a store's files, and told of the store itself."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

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


def of_store(error: ValueError, mirror: Path, path: Path) -> ValueError:
    """An error about a mirror as one about the store itself."""
    message = error.message if isinstance(error, Explained) else Message(str(error))
    kind = OptionError if isinstance(error, OptionError) else StoreError
    return kind(renamed(message, mirror, path))


def renamed(message: Message, mirror: Path, path: Path) -> Message:
    """A message about a mirror as one about the store itself."""
    return Message(
        *(
            part.replace(str(mirror), str(path))
            if isinstance(part, str)
            else renamed_call(part, mirror, path)
            if isinstance(part, Call)
            else part
            for part in message.parts
        )
    )


def renamed_call(call: Call, mirror: Path, path: Path) -> Call:
    """A call about a mirror as one about the store itself."""
    return replace(
        call, arguments=tuple(path if word == mirror else word for word in call.arguments)
    )

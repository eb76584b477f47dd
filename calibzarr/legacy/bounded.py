"""Reading files that anybody may have written, within bounds."""

import json
from pathlib import Path
from typing import Any

from calibzarr.errors import Explained
from calibzarr.storage import durable

_MOST_VALUES = 2_000_000  # of a JSON file; 100,000 images in a manifest have 700,000


class Unreadable(Explained, ValueError):
    """A file is not what it should be; the message says in what, and not which file."""


def read(path: Path, most_bytes: int) -> bytes:
    """Read a regular file whole.

    Raises:
        Unreadable: if it is missing, is a pipe, a device or a directory, is larger than
            ``most_bytes``, or cannot be read.
    """
    try:
        return durable.read(path, most_bytes)
    except FileNotFoundError:
        raise Unreadable("is missing") from None
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror or error})") from None


def read_json(path: Path, most_bytes: int) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        Unreadable: if it cannot be read, is no object, or has more than ``most_bytes`` or some
            millions of values.
    """
    content = read(path, most_bytes)
    if content.count(b",") > _MOST_VALUES:
        raise Unreadable(f"has more than the {_MOST_VALUES} values that are read")
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise Unreadable(f"is no JSON object, but a {type(value).__name__}")
    return value

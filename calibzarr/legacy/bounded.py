"""Reading files that anybody may have written, within bounds."""

import json
from pathlib import Path
from typing import Any

from calibzarr.errors import Explained


class Unreadable(Explained, ValueError):
    """A file is not what it should be; the message says in what, and not which file."""


def read_json(path: Path, most_bytes: int) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        Unreadable: if it cannot be read, is no object, or is larger than ``most_bytes``.
    """
    try:
        size = path.stat().st_size
        if size > most_bytes:
            raise Unreadable(f"has {size} bytes, more than the {most_bytes} that are read")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise Unreadable(f"is no JSON object, but a {type(value).__name__}")
    return value

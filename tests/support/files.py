"""Files to test with."""

import json
import os
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "stores" / "example.zarr"


def read_json(file):
    """Strict JSON, without NaN and Infinity."""
    return json.loads(file.read_text(), parse_constant=lambda text: pytest.fail(f"holds {text}"))


_watched = {}  # lists of openings by file


@cache
def _watch():
    def record(event, arguments):
        if event == "open" and isinstance(arguments[0], str | os.PathLike):
            name, _, flags = arguments
            if not flags & (os.O_WRONLY | os.O_RDWR):
                _watched.get(os.fspath(name), []).append(flags)

    sys.addaudithook(record)  # for good


@contextmanager
def reads_of(file):
    """A list that grows whenever this process opens a file to read it."""
    _watch()
    _watched[str(file)] = []
    try:
        yield _watched[str(file)]
    finally:
        del _watched[str(file)]

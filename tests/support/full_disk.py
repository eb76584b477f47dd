"""A disk that is full from a moment on."""

import errno
import itertools
import os

from calibzarr.storage import durable


def fill(monkeypatch, after=0):
    """Let files be begun until there are so many; any other finds no room."""
    new_file, count = durable.new_file, itertools.count()

    def new_file_until_full(file):
        if next(count) >= after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return new_file(file)

    monkeypatch.setattr(durable, "new_file", new_file_until_full)

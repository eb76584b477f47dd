import errno
import os
import re
import shutil
from collections import namedtuple

import pytest

from calibzarr.errors import DiskFullError
from calibzarr.storage import objects


def test_an_empty_directory_is_nothing(tmp_path):
    assert not objects.exists(tmp_path / "a")
    assert not objects.exists(tmp_path)
    (tmp_path / "a").touch()
    assert objects.exists(tmp_path / "a")
    assert objects.exists(tmp_path)


def test_what_may_be_written_is_asked_of_the_nearest_directory(tmp_path, monkeypatch):
    objects.check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"cannot create .*: .*file is not a directory"):
        objects.check_writable(tmp_path / "file" / "a")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(PermissionError, match=re.escape(f"in {tmp_path}")):
        objects.check_writable(tmp_path / "a" / "b")


@pytest.mark.parametrize(("needed", "fits"), [(10, True), (1_249_999, True), (1_250_001, False)])
def test_a_disk_is_refused_if_it_is_clearly_too_small(tmp_path, monkeypatch, needed, fits):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    if fits:
        objects.check_room(tmp_path / "a", needed, "make room")
        return
    message = f"{tmp_path}/a needs about 1.3 MB, but the disk has 1.0 MB free; make room"
    with pytest.raises(DiskFullError, match=re.escape(message)) as error:
        objects.check_room(tmp_path / "a", needed, "make room")
    assert error.value.errno == errno.ENOSPC

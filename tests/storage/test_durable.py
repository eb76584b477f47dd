import os
import time

import pytest

from calibzarr.storage import durable
from tests.support import children


def test_write_replaces_whole_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a" / "key"
    durable.write(path, b"old")
    durable.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]


def test_bytes_are_flushed_before_the_name_appears(tmp_path, monkeypatch):
    path, events = tmp_path / "key", []
    flush = os.fsync

    def fsync(descriptor):
        events.append(("flush", path.exists(), os.fstat(descriptor).st_size))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    durable.write(path, b"12345")
    assert events[0] == ("flush", False, 5)  # the file, before its name
    assert events[1][:2] == ("flush", True)  # the directory, after


def test_failed_write_keeps_the_old_bytes(tmp_path, monkeypatch):
    path = tmp_path / "key"
    durable.write(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        durable.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_new_directory_never_replaces_one_with_content(tmp_path):
    path = tmp_path / "store"
    with durable.new_directory(path) as partial:
        (partial / "mine").touch()
    with pytest.raises(FileExistsError), durable.new_directory(path) as partial:
        (partial / "other").touch()
    assert [entry.name for entry in tmp_path.rglob("*")] == ["store", "mine"]


def test_only_files_of_dead_writers_are_removed(tmp_path):
    begun = children.event()
    with children.running(children.begin_to_write, tmp_path / "key", begun):
        assert begun.wait(60)
        children.make_leftovers_old(tmp_path)
        assert durable.remove_abandoned(tmp_path.glob("*.partial")) == 0
        assert len(list(tmp_path.iterdir())) == 1
    assert durable.remove_abandoned(tmp_path.glob("*.partial")) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_just_being_made_is_left_alone(tmp_path):
    new, old = (durable.partial_path(tmp_path / "key") for _ in range(2))
    for partial in (new, old):
        partial.touch()
    later = time.time() + 3600  # however slow this is, it is new then
    os.utime(new, (later, later))
    os.utime(old, (0, 0))
    assert durable.remove_abandoned(tmp_path.glob("*.partial")) == 1
    assert list(tmp_path.iterdir()) == [new]

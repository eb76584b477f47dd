import fcntl
import os

import pytest
import zarr

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


def test_a_file_taken_for_abandoned_before_it_was_claimed_is_made_again(tmp_path, monkeypatch):
    flock, taken = fcntl.flock, []

    def remove_first(descriptor, operation):
        if not taken:
            taken.append(True)
            assert durable.remove_abandoned(tmp_path.glob("*.partial")) == 1
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    durable.write(tmp_path / "key", b"whole")
    assert taken
    assert (tmp_path / "key").read_bytes() == b"whole"
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_only_what_a_writer_made_is_taken_for_a_leftover(tmp_path):
    names = [f"key.{'0' * 32}.partial", f"pipe.{'1' * 32}.partial", f"link.{'2' * 32}.partial"]
    (tmp_path / names[0]).touch()
    os.mkfifo(tmp_path / names[1])
    (tmp_path / names[2]).symlink_to("/dev/zero")
    (tmp_path / "my.partial").touch()
    assert durable.remove_abandoned(tmp_path.glob("*.partial")) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["my.partial"]


def test_only_regular_files_are_read_and_none_that_is_too_large(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "large").write_bytes(b"12345")
    for name in ("pipe", "zero"):
        with pytest.raises(OSError, match="no regular file"):
            durable.read(tmp_path / name)
    with pytest.raises(OSError, match="5 bytes, more than the 4"):
        durable.read(tmp_path / "large", 4)
    assert durable.read(tmp_path / "large", 5) == b"12345"


def test_a_directory_that_was_moved_away_is_not_made_again(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    group = zarr.create_group(durable.DurableStore(path), zarr_format=3)
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        group.create_array("x", shape=(1,), dtype="int8")
    with pytest.raises(FileNotFoundError), durable.new_file(path / "key"):
        pass
    assert not path.exists()

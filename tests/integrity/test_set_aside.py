import shutil

import pytest

from calibzarr.integrity import set_aside
from tests.support.stores import create, open_strictly


@pytest.fixture
def path(tmp_path):
    create(tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


def test_moved_files_bear_the_name_of_their_place_and_none_is_lost(path):
    names = ["seed.c.0", "seed.c.0.1", "seed.c.0.2"]
    for number in range(len(names)):
        file = path / "seed" / "c.0"
        file.write_text(str(number))
        assert set_aside.move(path, file)
        assert not file.exists()
    assert not set_aside.move(path, file)
    aside = set_aside.directory(path)
    assert {file.name: file.read_text() for file in aside.iterdir()} == {
        name: str(number) for number, name in enumerate(names)
    }


def test_a_directory_is_moved_whole(path):
    assert set_aside.move(path, path / "decoded")
    assert (set_aside.directory(path) / "decoded" / "zarr.json").exists()


def test_what_is_replaced_is_kept_and_readers_do_not_see_it(path):
    before, old = open_strictly(path).load(), (path / "zarr.json").read_bytes()
    set_aside.replace(path, path / "zarr.json", old + b" ")
    assert (path / "zarr.json").read_bytes() == old + b" "
    assert (set_aside.directory(path) / "zarr.json").read_bytes() == old
    assert open_strictly(path).load().identical(before)


def test_what_stands_in_the_place_of_a_folder_is_kept(path):
    shutil.rmtree(path / "seed")
    (path / "seed").write_text("x")
    set_aside.replace(path, path / "seed" / "c.0", b"chunk")
    assert (path / "seed" / "c.0").read_bytes() == b"chunk"
    assert (set_aside.directory(path) / "seed").read_text() == "x"


def test_there_is_an_end_to_names(path, monkeypatch):
    monkeypatch.setattr(type(path), "exists", lambda self: True)
    with pytest.raises(OSError, match="holds too many damaged files"):
        set_aside.move(path, path / "seed" / "c.0")

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


def test_a_copy_leaves_the_file_and_readers_see_neither(path):
    before = open_strictly(path).load()
    assert set_aside.copy(path, path / "zarr.json")
    assert not set_aside.copy(path, path / "none")
    copied = set_aside.directory(path) / "zarr.json"
    assert copied.read_bytes() == (path / "zarr.json").read_bytes()
    assert open_strictly(path).load().identical(before)


def test_there_is_an_end_to_names(path, monkeypatch):
    monkeypatch.setattr(type(path), "exists", lambda self: True)
    with pytest.raises(OSError, match="holds too many damaged files"):
        set_aside.move(path, path / "seed" / "c.0")

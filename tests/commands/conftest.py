import shutil

import pytest

from tests.support.stores import shrunk


@pytest.fixture(scope="package")
def small(replayed, tmp_path_factory):
    return shrunk(replayed.path, tmp_path_factory.mktemp("small") / "a.zarr")


@pytest.fixture
def place(small, replayed, tmp_path, monkeypatch):
    """A directory to work in: a store, one without statistics, a file and a directory."""
    shutil.copytree(small, tmp_path / "a.zarr")
    shutil.copytree(replayed.bare, tmp_path / "bare.zarr")
    (tmp_path / "old.json").write_text("old")
    (tmp_path / "directory" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path

import re
import shutil

import numpy as np
import pytest
import xarray as xr

from calibzarr.errors import StoreError
from calibzarr.integrity.verification import verify
from calibzarr.storage import reading, schema, store
from tests.support.files import EXAMPLE
from tests.support.stores import open_strictly

ADDED = ("input_group", "tied_group", "follows", "text_only")


@pytest.fixture
def older(replayed, tmp_path):
    """The same store as an older version would have left it."""
    path = tmp_path / "older.zarr"
    shutil.copytree(replayed.path, path)
    for name in ADDED:
        shutil.rmtree(path / name)
    store.publish(path, {}, [name for name in store.published(path) if name not in ADDED])
    return path


def test_coordinates_of_layers_are_coordinates_to_any_reader(replayed):
    dataset = open_strictly(replayed.path)
    for variable in schema.LAYER_COORDINATES:
        assert variable.name in dataset.coords


def test_statistics_name_the_coordinates_that_older_stores_have(replayed):
    for name, metadata in store.published_metadata(replayed.path).items():
        if name not in ADDED:
            assert not set(metadata["attributes"].get("coordinates", "").split()) & set(ADDED)


def test_groups_of_older_stores_are_those_that_the_model_tells(replayed, older):
    told, guessed = reading.open_statistics(replayed.path), reading.open_statistics(older)
    assert not set(ADDED) & set(xr.open_zarr(older).variables)
    for name in ("input_group", "tied_group", "text_only"):
        np.testing.assert_array_equal(guessed[name], told[name])
    np.testing.assert_array_equal(guessed.follows == "gelu", told.follows == "gelu")
    assert guessed.drop_vars(ADDED).identical(told.drop_vars(ADDED).assign_attrs(guessed.attrs))


def test_older_stores_are_whole(older):
    assert not verify(older).findings
    assert reading.open_statistics(EXAMPLE).follows.values.any()


def test_store_without_statistics_says_how_to_make_them(replayed, tmp_path):
    message = f"{replayed.bare} has no statistics yet; make them with: calibzarr.collect("
    with pytest.raises(StoreError, match=re.escape(message)):
        reading.open_statistics(replayed.bare)
    with pytest.raises(FileNotFoundError):
        reading.open_statistics(tmp_path / "nothing.zarr")

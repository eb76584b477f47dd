import re
import shutil

import numpy as np
import pytest
import xarray as xr

from calibzarr.errors import StoreError
from calibzarr.integrity.verification import verify
from calibzarr.storage import reading, schema, store
from calibzarr.storage.manifest import read_root
from calibzarr.storage.reading import open_store
from tests.support.files import EXAMPLE, reads_of
from tests.support.stores import create, open_strictly, random_image, without_index

ADDED = ("input_group", "tied_group", "follows", "text_only")


@pytest.fixture
def older(replayed, tmp_path):
    """The same store as an older version would have left it."""
    path = tmp_path / "older.zarr"
    shutil.copytree(replayed.path, path)
    return without_index(path, ADDED)


def test_coordinates_of_layers_are_coordinates_to_any_reader(replayed):
    dataset = open_strictly(replayed.path)
    for variable in schema.LAYER_COORDINATES:
        assert variable.name in dataset.coords


def test_statistics_name_the_coordinates_that_older_stores_have(replayed):
    for name, metadata in read_root(replayed.path).arrays.items():
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


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.zarr"
    create(path)
    return path


def test_open_store_tells_the_live_truth(path):
    store.ImageWriter(path).write(1, *random_image(1))
    assert not open_strictly(path).complete.any()  # written when a build ends
    dataset = open_store(path)
    assert dataset.complete.values.tolist() == [False, True, False]
    assert dataset.attrs["n_completed"] == 1
    assert dataset.latents.chunks is None  # read on use, no dask
    np.testing.assert_array_equal(dataset.latents[1], random_image(1)[0])


def test_the_roots_metadata_are_read_once(path):
    with reads_of(path / "zarr.json") as reads:
        dataset = open_store(path)
        dataset.latents[0].load()
    assert len(reads) == 1
    root = read_root(path)
    with reads_of(path / "zarr.json") as reads:
        assert open_store(root).attrs == dataset.attrs
        store.ImageWriter(root).write(0, *random_image(0))
        store.open_group(root)["seed"][:]
    assert not reads


def test_a_dataset_is_that_of_xarray(path):
    store.ImageWriter(path).write(1, *random_image(1))
    store.finish(path)
    dataset, expected = open_store(path), open_strictly(path)
    for dim in ("image", "step"):
        np.testing.assert_array_equal(dataset[dim], np.arange(dataset.sizes[dim]))
    xr.testing.assert_identical(dataset.drop_vars(["image", "step"]), expected.load())
    assert dataset.encoding == expected.encoding
    for name, variable in expected.variables.items():
        if name not in ("latents", "complete"):
            assert dataset[name].encoding == variable.encoding


def test_a_description_is_what_the_files_are():
    described = reading.info(EXAMPLE)
    files = [file for file in EXAMPLE.rglob("*") if file.is_file()]
    assert described["files"] == len(files)
    assert sum(described["bytes"].values()) == sum(file.stat().st_size for file in files)
    latents = (EXAMPLE / "latents").glob("c.*")
    assert described["bytes"]["latents"] == sum(file.stat().st_size for file in latents)
    assert described["num_images"] == described["manifest"]["num_images"]
    assert described["n_completed"] == len(list((EXAMPLE / "latents").glob("c.*")))
    assert described["collected"] == described["manifest"]["activations"]


def test_what_is_no_store_is_not_described(tmp_path):
    with pytest.raises(StoreError, match="is not a calibzarr store"):
        reading.info(tmp_path)


@pytest.mark.parametrize("name", ["collected", "collected_image", "features"])
def test_statistics_that_lost_what_they_cover_are_refused(tmp_path, name):
    path = shutil.copytree(EXAMPLE, tmp_path / "a.zarr")
    (path / name / "c.0").unlink()
    with pytest.raises(StoreError, match=r"is damaged: its statistics cover nothing"):
        reading.open_statistics(path)

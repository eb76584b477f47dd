import json
import os
import re

import numpy as np
import pytest
import tensorstore
import zarr

from calibzarr.errors import StoreError
from calibzarr.storage import objects, schema, store
from tests.support.files import ROOT
from tests.support.stores import SIZES, create, open_strictly, random_image

# The published format, written down a second time: see stores/README.md.
FORMAT_1 = {
    "latents": ("image step channel height width", "float32", (1, 5, 16, 8, 8), (1, 1, 16, 8, 8)),
    "decoded": ("image row column rgb", "uint8", (1, 64, 64, 3), None),
    "sigma": ("step", "float32", (5,), None),
    "timestep": ("step", "float32", (5,), None),
    "final": ("step", "bool", (5,), None),
    "prompt": ("image", "string", (1024,), None),
    "seed": ("image", "int64", (1024,), None),
    "complete": ("image", "bool", (1024,), None),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.zarr"
    create(path)
    return path


def test_layout_is_the_published_format(path):
    assert {entry.name for entry in path.iterdir()} == {*FORMAT_1, "copies", "zarr.json"}
    for name, (dims, dtype, chunk, inner) in FORMAT_1.items():
        metadata = json.loads((path / name / "zarr.json").read_text())
        assert " ".join(metadata["dimension_names"]) == dims
        assert metadata["data_type"] == dtype
        assert tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"]) == chunk
        assert metadata["chunk_key_encoding"]["configuration"]["separator"] == "."
        if inner:
            (sharding,) = metadata["codecs"]
            assert sharding["name"] == "sharding_indexed"
            assert tuple(sharding["configuration"]["chunk_shape"]) == inner
    root = json.loads((path / "zarr.json").read_text())
    assert root["attributes"]["format"] == "calibzarr"
    assert root["attributes"]["format_version"] == 1
    assert set(root["consolidated_metadata"]["metadata"]) == set(FORMAT_1)


def test_plain_xarray_opens_it_at_every_moment(path):
    writer = store.ImageWriter(path)
    for moment in range(4):
        dataset = open_strictly(path)
        assert set(dataset.data_vars) == {"latents", "decoded"}
        assert set(dataset.coords) == {"sigma", "timestep", "final", "prompt", "seed", "complete"}
        assert dict(dataset.sizes) == SIZES.by_dimension
        assert np.isnan(dataset.latents[moment:]).all()
        assert not np.isnan(dataset.latents[:moment]).any()
        if moment < 3:
            writer.write(moment, *random_image(moment))
    store.finish(path)
    dataset = open_strictly(path)
    assert dataset.complete.all()
    assert dataset.attrs["n_completed"] == 3
    assert dataset.prompt.values.tolist() == ["prompt 0", "prompt 1", "prompt 2"]


@pytest.mark.parametrize("latent_dtype", ["float32", "float16"])
def test_tensorstore_reads_the_same_numbers(tmp_path, latent_dtype):
    path = tmp_path / "a.zarr"
    create(path, latent_dtype=latent_dtype)
    latents, decoded = random_image(1)
    store.ImageWriter(path).write(1, latents, decoded)
    store.finish(path)

    def read(name):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / name)}}
        return tensorstore.open(spec).result().read().result()

    np.testing.assert_array_equal(read("latents")[1], latents.astype(latent_dtype))
    assert np.isnan(read("latents")[0]).all()
    np.testing.assert_array_equal(read("decoded")[1], decoded)
    np.testing.assert_array_equal(read("complete"), [False, True, False])
    dataset = open_strictly(path)
    for name in ("sigma", "timestep", "final", "seed"):
        np.testing.assert_array_equal(read(name), dataset[name])


def test_only_whole_shards_count_as_complete(path):
    store.ImageWriter(path).write(2, *random_image(2))
    latents = path / "latents"
    for name in ("c.0.0.0.0", f"c.0.0.0.0.{'0' * 32}.partial", "c.1.0.0.0.0.tmp", "c.9.0.0.0.0"):
        (latents / name).write_bytes(b"no")
    assert store.completed(path, 3).tolist() == [False, False, True]


def test_a_black_picture_and_zero_latents_are_stored(path):
    zeros = np.zeros((5, 16, 8, 8), np.float32), np.zeros((64, 64, 3), np.uint8)
    store.ImageWriter(path).write(0, *zeros)
    assert (path / "decoded" / "c.0.0.0.0").exists()
    assert (open_strictly(path).latents[0] == 0).all()


def test_store_grows_without_touching_what_is_there(path):
    store.ImageWriter(path).write(1, *random_image(1))
    shard = (path / "latents" / "c.1.0.0.0.0").read_bytes()
    prompts = [f"prompt {i}" for i in range(2000)]  # beyond one chunk of the coordinates
    store.extend(path, prompts, range(2000), {"num_images": 2000})
    dataset = open_strictly(path)
    assert dataset.prompt.values.tolist() == prompts
    assert dataset.seed.values.tolist() == list(range(2000))
    assert dataset.sizes["image"] == 2000
    assert (path / "latents" / "c.1.0.0.0.0").read_bytes() == shard
    np.testing.assert_array_equal(dataset.latents[1], random_image(1)[0])
    store.ImageWriter(path).write(1999, *random_image(5))
    assert store.completed(path, 2000).nonzero()[0].tolist() == [1, 1999]


def test_create_never_replaces_a_store(path):
    before = (path / "zarr.json").read_bytes()
    with pytest.raises(FileExistsError, match=re.escape(str(path))):
        create(path, num_images=9)
    assert (path / "zarr.json").read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["a.zarr"]


def test_create_fills_an_empty_directory(tmp_path):
    path = tmp_path / "empty.zarr"
    path.mkdir()
    assert not objects.exists(path)
    create(path)
    assert objects.exists(path)
    assert open_strictly(path).sizes["image"] == 3


def test_leftovers_are_removed_and_nothing_else(path):
    files = set(path.rglob("*"))
    leftover = path / "latents" / f"c.0.0.0.0.{'a' * 32}.partial"
    leftover.write_bytes(b"torn")
    os.utime(leftover, (0, 0))
    assert store.remove_leftovers(path) == 1
    assert set(path.rglob("*")) == files


def test_every_variable_is_documented_for_readers():
    readme = (ROOT / "stores" / "README.md").read_text(encoding="utf-8")
    for variable in (*schema.BUILD_VARIABLES, *schema.COLLECTED_VARIABLES):
        assert f"`{variable.name}`" in readme


@pytest.mark.parametrize("wrong", [lambda s: s[::-1], lambda s: s * np.nan, lambda s: s + 1])
def test_noise_levels_that_do_not_fall_to_zero_are_refused(path, wrong):
    right = store.noise_levels(path)
    np.testing.assert_array_equal(right, zarr.open_array(path / "sigma")[:])
    zarr.open_array(path / "sigma")[:] = wrong(right)
    with pytest.raises(StoreError, match=r"its sigma does not fall to 0.*calibzarr\.repair"):
        store.noise_levels(path)


def test_the_first_state_that_is_not_finite_is_found():
    states = np.zeros((5, 2, 3), dtype=np.float32)
    assert store.first_non_finite(states) is None
    states[4, 1, 2], states[3, 0, 1] = np.nan, -np.inf
    assert store.first_non_finite(states) == 3

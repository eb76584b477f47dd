import hashlib
import json

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

import calibzarr
from calibzarr.storage import schema, shards, store
from tests.support.stores import create, random_image


@pytest.fixture(scope="module", params=["float32", "float16"])
def path(request, tmp_path_factory):
    """A store whose images 0 and 2 are complete."""
    path = tmp_path_factory.mktemp("shards") / "a.zarr"
    create(path, latent_dtype=request.param)
    writer = store.ImageWriter(path)
    for image in (0, 2):
        writer.write(image, *random_image(image))
    return path


def test_bytes_are_those_that_zarr_writes(path, tmp_path):
    group = zarr.open_group(path, mode="r+")
    own = (path / "latents" / schema.LATENTS.key(2)).read_bytes()
    group["latents"][1] = group["latents"][2]
    head, states = own[:32], own[32:]
    picture = (path / "decoded" / schema.DECODED.key(2)).read_bytes()
    assert head == hashlib.sha256(picture).digest()
    written = (path / "latents" / schema.LATENTS.key(1)).read_bytes()
    assert shards.picture_sha256(path / "latents" / schema.LATENTS.key(1), 5) is None
    index = -16 * 5 - 4  # offsets and lengths of the states, and a checksum
    assert written[:index] == states[:index]
    offsets, own_offsets = (
        np.frombuffer(data[index:-4], "<u8").reshape(5, 2) for data in (written, own)
    )
    np.testing.assert_array_equal(own_offsets, offsets + np.array([32, 0], "<u8"))
    (path / "latents" / schema.LATENTS.key(1)).unlink()


ADDED = ("complete", "image", "step")  # or changed by open_store
index = st.one_of(
    st.integers(-3, 2),
    st.just(slice(None, None, -2)),
    st.lists(st.integers(-3, 2), min_size=1, max_size=4),
)


def selects_something(size):
    """Slices that xarray itself can take: it fails on empty ones that go backwards."""
    return st.slices(size).filter(lambda own: len(range(size)[own]))


@pytest.mark.slow
@given(
    index,
    selects_something(5) | st.integers(-5, 4),
    selects_something(16) | st.lists(st.integers(0, 15)),
)
def test_any_selection_equals_zarrs_own_reading(path, images, steps, channels):
    selection = {"image": images, "step": steps, "channel": channels, "width": [7, 0]}
    expected = xr.open_zarr(path, chunks=None).latents.isel(selection)
    actual = calibzarr.open_store(path).latents.isel(selection)
    xr.testing.assert_identical(
        actual.drop_vars(ADDED, errors="ignore"), expected.drop_vars("complete")
    )
    assert actual.dtype == expected.dtype


def test_states_that_zarr_leaves_out_read_as_nan(path):
    zarr.open_group(path, mode="r+")["latents"][1] = np.full((5, 16, 8, 8), np.nan)
    zarr.open_group(path, mode="r+")["latents"][1, 3] = 0.0
    latents = calibzarr.open_store(path).latents[1].values
    assert (latents[3] == 0).all()
    assert np.isnan(latents[[0, 1, 2, 4]]).all()
    (path / "latents" / schema.LATENTS.key(1)).unlink()


@pytest.mark.parametrize("damage", ["index", "truncated", "empty", "chunk"])
def test_damage_is_told_with_the_file(path, damage):
    file = path / "latents" / schema.LATENTS.key(0)
    whole = file.read_bytes()
    spoilt = bytearray(whole)
    if damage == "index":
        spoilt[-20] ^= 1
    elif damage == "chunk":
        spoilt[40] ^= 0x7F  # within the first state's header
    file.write_bytes({"truncated": whole[:-7], "empty": b""}.get(damage, bytes(spoilt)))
    latents = calibzarr.open_store(path).latents
    with pytest.raises(ValueError, match=r"c\.0\.0\.0\.0\.0 is damaged"):
        latents[0].values  # noqa: B018
    file.write_bytes(whole)


def test_other_layouts_are_left_to_zarr(path):
    metadata = json.loads((path / "latents" / "zarr.json").read_text())
    assert shards.is_ours(metadata)
    sharding = metadata["codecs"][0]["configuration"]
    sharding["index_location"] = "start"
    assert not shards.is_ours(metadata)
    metadata["codecs"] = [{"name": "bytes"}]
    assert not shards.is_ours(metadata)


def test_writer_refuses_what_does_not_fit(path):
    latents, decoded = random_image(0)
    with pytest.raises(IndexError, match="images 0 to 2, got 3"):
        store.ImageWriter(path).write(3, latents, decoded)
    with pytest.raises(ValueError, match=r"shape \(5, 16, 8, 8\), got \(4, 16, 8, 8\)"):
        store.ImageWriter(path).write(1, latents[:4], decoded)
    assert store.completed(path, 3).tolist() == [True, False, True]

import shutil

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from tests.support.commands import assert_refused
from tests.support.comparing import noisy_copy


@pytest.fixture
def stores(make_store, tmp_path, monkeypatch):
    """A directory with a store, and noisy copies of it; one lacks image 1, one has no image."""
    (tmp_path / "a.zarr").symlink_to(make_store(num_images=3, num_steps=2))
    noisy_copy(tmp_path / "a.zarr", tmp_path / "noisy.zarr", 0.05, 9, images=(0, 2))
    noisy_copy(tmp_path / "a.zarr", tmp_path / "none.zarr", 0, 0, images=())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(run, *arguments):
    """The picture that a command drew, its file's name, and what it printed besides."""
    code, out, err = run("show", *arguments)
    assert (code, err) == (0, "")
    name, *rest = out.splitlines()
    return np.asarray(Image.open(name)), name.rpartition("/")[2], rest


def contains(sheet, picture, scale=3):
    """Whether a picture is on a sheet, enlarged."""
    enlarged = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = enlarged.shape[:2]
    return any(
        np.array_equal(sheet[top : top + height, left : left + width], enlarged)
        for top, left in np.argwhere((sheet == enlarged[0, 0]).all(axis=-1)).tolist()
    )


def pictures(path):
    return xr.open_zarr(path, chunks=None).decoded.values


def test_the_sheet_of_a_store_has_its_complete_images(run, stores):
    shutil.move(stores / "noisy.zarr", stores / "mine")
    sheet, name, rest = drawn(run, "mine")
    assert (name, rest) == ("mine.png", [])
    assert [contains(sheet, picture) for picture in pictures("mine")] == [True, False, True]


def test_a_store_beside_another(run, stores):
    sheet, name, _ = drawn(run, "a.zarr", "--against", "noisy.zarr")
    assert name == f"{(stores / 'a.zarr').resolve().stem}-against-noisy.png"
    first, other = pictures("a.zarr"), pictures("noisy.zarr")
    for image in (0, 2):
        assert contains(sheet, first[image])
        assert contains(sheet, other[image])
    apart = np.abs(first[[0, 2]].astype(int) - other[[0, 2]])
    factor = max(2**n for n in range(8) if 2**n * apart.max() <= 255)
    assert contains(sheet, (factor * apart[1]).astype(np.uint8))


def test_the_way_of_an_image_alone_and_beside_another(run, stores, tiny):
    ours, theirs = (
        tiny.decode(xr.open_zarr(path, chunks=None).latents.values[2, 2])
        for path in ("a.zarr", "noisy.zarr")
    )
    film, name, _ = drawn(run, "noisy.zarr", "--image", "2")
    assert name == "noisy-2.png"
    assert contains(film, theirs, scale=2)
    both, _, _ = drawn(run, "a.zarr", "--image", "2", "--against", "noisy.zarr")
    assert contains(both, ours, scale=2)
    assert contains(both, theirs, scale=2)


def test_a_file_that_is_named_is_replaced(run, stores):
    (stores / "b.png").write_text("old")
    sheet, name, _ = drawn(run, "a.zarr", "--out", "b.png")
    assert name == "b.png"
    assert contains(sheet, pictures("a.zarr")[0])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("a.zarr --image 3", 2, "--image must be one of 3 complete images, 0 to 2, got 3"),
        ("noisy.zarr --image 1", 2, "--image must be one of 2 complete images, 0 to 2, got 1"),
        ("a.zarr --image -1", 2, "-1"),
        ("a.zarr --out a.jpg", 2, "--out must end in .png, got 'a.jpg'"),
        ("a.zarr --out a.zarr/a.png", 1, "within the store"),
        ("none.zarr", 1, "no complete image to show; build some with: calibzarr build none.zarr"),
        ("a.zarr --against none.zarr", 1, "no image is complete in all"),
        ("a.zarr --against b.zarr", 1, "no store at b.zarr"),
        ("b.zarr", 1, "no store at b.zarr"),
    ],
)
def test_what_cannot_be_shown_is_refused(run, stores, arguments, code, message):
    assert_refused(run, stores, f"show {arguments}", code, message)

import numpy as np
import pytest

from calibzarr.errors import OptionError
from tests.support import old_directory
from tests.support.moving import NUM_STEPS, made_up_store, take_out


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return made_up_store(tmp_path_factory.mktemp("store") / "a.zarr")


def test_another_export_is_replaced_only_by_force(path, tmp_path):
    other = made_up_store(tmp_path / "b.zarr", num_images=5, incomplete=(), seed=20)
    directory = tmp_path / "old"
    take_out(other, directory)
    before = old_directory.contents(directory)
    with pytest.raises(OptionError, match=r"is an export of another store; .* force"):
        take_out(path, directory)
    with pytest.raises(OptionError, match=r"is an export in the layout nchw; .* force"):
        take_out(other, directory, layout="nhwc")
    assert old_directory.contents(directory).keys() == before.keys()
    result = take_out(path, directory, force=True)
    assert result.others == 2 * (NUM_STEPS + 1)  # of images 2 and 4, which only the other has
    take_out(path, tmp_path / "fresh")
    fresh = old_directory.contents(tmp_path / "fresh")
    actual = old_directory.contents(directory)
    assert actual["manifest.json"] == fresh["manifest.json"]
    for name in fresh:
        if name.startswith("samples/"):
            np.testing.assert_array_equal(actual[name]["x"], fresh[name]["x"])


def test_a_directory_of_the_old_scripts_is_not_touched(path, tmp_path):
    old_directory.write(tmp_path / "old")
    before = {file: file.read_bytes() for file in (tmp_path / "old").rglob("*.*")}
    with pytest.raises(OptionError, match="has samples already, and is no export of"):
        take_out(path, tmp_path / "old")
    assert {file: file.read_bytes() for file in (tmp_path / "old").rglob("*.*")} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["samples", "pictures"]}, "only must be some of samples, .*; got 'pictures'"),
        ({"layout": "chw"}, "layout must be nchw or nhwc, got 'chw'"),
        ({"num_images": 0}, "num_images must be 1 or more, got 0"),
        ({"workers": 0}, "workers must be 1 or more, got 0"),
        ({"images": (4, 9)}, "0 <= A < B <= 4, got 4:9"),
        ({"images": (2, 3)}, "no image of 2:3 is complete"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(path, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        take_out(path, tmp_path / "old", **options)
    assert not (tmp_path / "old").exists()


def test_a_store_is_not_written_into(path, tmp_path):
    for directory in (path, path / "old"):
        with pytest.raises(OptionError, match="is a store, or in one"):
            take_out(path, directory)

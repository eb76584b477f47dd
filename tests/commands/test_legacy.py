import numpy as np
import xarray as xr
from PIL import Image


def test_images_alone_are_pictures_and_nothing_else(run, make_store, tmp_path):
    path = make_store(num_images=3, num_steps=2)
    code, out, _ = run("export-legacy", path, tmp_path / "old", "--only", "images")
    assert code == 0
    assert "3 images" in out
    assert "import-legacy" not in out  # which needs states
    files = sorted((tmp_path / "old" / "images").iterdir())
    decoded = xr.open_zarr(path).decoded.values
    assert [file.name for file in files] == ["0000.png", "0001.png", "0002.png"]
    for file, picture in zip(files, decoded, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), picture)
    _, _, err = run("export-legacy", path, tmp_path / "b", "--only", "images", "--images", "1:100")
    assert "there are 3 images: taking 1:3\n" in err
    assert len(list((tmp_path / "b" / "images").iterdir())) == 2
    visible = [entry.name for entry in (tmp_path / "old").iterdir() if entry.name[0] != "."]
    assert visible == ["images"]

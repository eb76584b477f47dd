import numpy as np
import pytest
import xarray as xr

from calibzarr.report import contact_sheet


def dataset(count, size=64):
    pictures = np.zeros((count, size, size, 3), np.uint8)
    pictures[..., 0] = np.arange(count, dtype=np.uint8)[:, None, None] + 10
    return xr.Dataset(
        {"decoded": (("image", "row", "column", "rgb"), pictures)},
        coords={"prompt": ("image", [f"a very long prompt number {i} " * 9 for i in range(count)])},
    )


@pytest.mark.parametrize(("count", "columns"), [(1, 4), (5, 2), (8, 4)])
def test_every_picture_is_on_the_sheet_in_order(count, columns):
    sheet = np.asarray(contact_sheet(dataset(count), columns))
    tops = []
    for i in range(count):
        rows, places = np.nonzero((sheet == [i + 10, 0, 0]).all(axis=-1))
        assert len(rows) == 192 * 192  # whole, enlarged three times, under no caption
        tops.append((rows.min(), places.min()))
    assert tops == sorted(tops)
    assert len({left for _, left in tops}) == min(count, columns)


def test_no_image_is_an_error():
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet(dataset(0))

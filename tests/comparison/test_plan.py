import re

import pytest
import xarray as xr

from calibzarr.comparison.plan import plan
from calibzarr.errors import StoreError

OPTIONS = {"num_images": 2, "num_steps": 2}


@pytest.mark.parametrize(
    ("changed", "field", "values"),
    [
        ({"num_steps": 3}, "num_steps", ("3", "2")),
        ({"cfg_weight": 1.0}, "cfg_weight", ("1.0", "3.0")),
        ({"image_size": 32}, "image_size", ("32", "64")),
        ({"seed": 5}, "seed of image 0", ("5", "0")),
    ],
)
def test_what_cannot_be_compared_is_named_with_both_values(make_store, changed, field, values):
    paths = make_store(**OPTIONS), make_store(**{**OPTIONS, **changed})
    said = f"its {field} is {values[0]}, that of the reference is {values[1]}"
    with pytest.raises(StoreError, match=re.escape(said)):
        plan(*paths)


def test_other_prompts_are_named(make_store, tmp_path):
    file = tmp_path / "prompts.txt"
    reference = make_store(**OPTIONS)
    first, _ = xr.open_zarr(reference).prompt.values
    file.write_text(f"{first}\na red cross\n")
    other = make_store(**OPTIONS, prompts=file)
    with pytest.raises(StoreError, match="its prompt of image 1 is 'a red cross', that of"):
        plan(reference, other)


def test_stores_of_different_length_are_compared_over_the_images_of_both(make_store):
    short, long = make_store(**OPTIONS), make_store(**{**OPTIONS, "num_images": 3})
    for paths in ((short, long), (long, short)):
        found = plan(*paths)
        assert found.images == (0, 1)
        assert found.seeds == (0, 1)
        assert found.prompts == tuple(xr.open_zarr(short).prompt.values)

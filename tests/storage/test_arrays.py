import numpy as np
import pytest
import zarr

from calibzarr.storage import arrays, schema

SIZES = {"image": 2, "step": 3, "channel": 4, "height": 5, "width": 6}
SIZES |= {"row": 40, "column": 40, "rgb": 3}


@pytest.mark.parametrize("checksums", [True, False])
def test_arrays_are_as_the_schema_says(checksums):
    group = zarr.create_group({}, zarr_format=3)
    arrays.create(group, schema.BUILD_VARIABLES, SIZES, "float16", checksums=checksums)
    assert set(group.array_keys()) == {variable.name for variable in schema.BUILD_VARIABLES}
    for variable in schema.BUILD_VARIABLES:
        array = group[variable.name]
        assert array.shape == variable.shape(SIZES)
        assert array.metadata.dimension_names == variable.dims
        assert array.attrs["long_name"] == variable.description
        assert array.attrs.get("units") == (None if variable.dtype == "string" else variable.units)
        codecs = [type(codec).__name__ for codec in array.compressors]
        assert ("Crc32cCodec" in codecs) == checksums
    assert group["latents"].dtype == np.float16
    assert group["latents"].chunks == (1, 1, 4, 5, 6)
    assert group["latents"].shards == (1, 3, 4, 5, 6)
    assert np.isnan(group["latents"][:]).all()


def test_data_name_their_coordinates():
    group = zarr.create_group({}, zarr_format=3)
    arrays.create(group, schema.BUILD_VARIABLES, SIZES)
    assert group["decoded"].attrs["coordinates"].split() == ["prompt", "seed", "complete"]
    assert "coordinates" not in group["seed"].attrs

import pytest

from calibzarr.storage import schema
from calibzarr.storage.variable import Variable


@pytest.mark.parametrize(
    ("variable", "key"),
    [(schema.LATENTS, "c.7.0.0.0.0"), (schema.DECODED, "c.7.0.0.0"), (schema.SEED, "c.7")],
)
def test_keys_of_chunks_name_their_images(variable, key):
    assert variable.key(7) == key
    assert variable.index(key) == 7


@pytest.mark.parametrize(
    "key",
    [
        *("", "c", "zarr.json", "c.1", "c.1.0.0.0", "c.1.0.0.0.1", "c.01.0.0.0.0"),
        *("c.-1.0.0.0.0", "c.1.0.0.0.0.partial", "c.\u00b2.0.0.0.0", "d.1.0.0.0.0"),
    ],
)
def test_other_names_are_no_keys(key):
    assert schema.LATENTS.index(key) is None


def test_what_is_not_divided_is_whole():
    variable = Variable(
        "v", ("image", "step", "row"), "float32", "", chunk={"step": 1}, shard={"image": 4}
    )
    sizes = {"image": 5, "step": 7, "row": 3, "other": 9}
    assert variable.shape(sizes) == (5, 7, 3)
    assert variable.extent(variable.chunk, sizes) == (5, 1, 3)
    assert variable.extent(variable.shard, sizes) == (4, 7, 3)

import pytest

from calibzarr.storage import schema


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


def test_what_is_added_to_a_store_has_names_of_its_own():
    names = [variable.name for variable in schema.BUILD_VARIABLES]
    names += [*schema.COLLECTION.names, *schema.ADVICE.names]
    assert len(set(names)) == len(names)
    assert schema.COLLECTION.outdates == (schema.ADVICE,)

from calibzarr.storage import schema


def test_what_is_added_to_a_store_has_names_of_its_own():
    names = [variable.name for variable in schema.BUILD_VARIABLES]
    names += [name for addition in schema.ADDITIONS for name in addition.names]
    assert len(set(names)) == len(names)
    for what in ("attribute", "title"):
        assert len({getattr(addition, what) for addition in schema.ADDITIONS}) == 2

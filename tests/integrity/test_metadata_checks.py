import json
import re
import shutil

import pytest

from calibzarr.integrity import metadata_checks
from calibzarr.models import registry
from calibzarr.storage import schema
from calibzarr.storage.manifest import read_root
from tests.support.measuring import measure


@pytest.fixture(scope="module")
def root(make_store, tmp_path_factory):
    """Of a store with statistics and sensitivities."""
    path = make_store(num_images=3, num_steps=2, image_size=32, collect={"steps": "all"})
    path = shutil.copytree(path, tmp_path_factory.mktemp("metadata") / "a.zarr")
    measure(path, images=2, probes=2)
    return read_root(path)


def test_what_is_wanted_is_what_a_store_has(root):
    wanted, errors = metadata_checks.wanted_metadata(root.attributes, root.arrays)
    assert errors == []
    assert wanted.keys() == root.arrays.keys()
    for name, metadata in wanted.items():
        assert metadata_checks.difference(root.arrays[name], metadata) is None, name
    assert metadata_checks.metadata_errors(root) == ([], [])


def test_sizes_are_those_of_most_arrays(root):
    """One that says otherwise is the one that is wrong."""
    listed = json.loads(json.dumps(root.arrays))
    listed["quantizer"]["shape"] = [3]
    wanted, errors = metadata_checks.wanted_metadata(root.attributes, listed)
    assert errors == []
    different = [
        name
        for name in wanted
        if metadata_checks.difference(listed[name], wanted[name]) is not None
    ]
    assert different == ["quantizer"]


def test_sizes_that_nothing_tells_are_named(root):
    built = {variable.name: root.arrays[variable.name] for variable in schema.BUILD_VARIABLES}
    wanted, errors = metadata_checks.wanted_metadata(root.attributes, built)
    assert wanted.keys() == built.keys()
    assert [error.partition(" are not")[0] for error in errors] == [
        "the sizes of the statistics",
        "the sizes of the sensitivities",
    ]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("shape", [1], r"its shape is \[1\], not"),
        ("data_type", "int8", "its data_type is int8, not float32"),
        ("fill_value", 0, "its fill_value is 0, not NaN"),
        ("dimension_names", None, "its dimension_names is None"),
        ("codecs", [], r"its codecs is \[\]"),
        ("attributes", {}, "its attribute 'long_name' is not"),
    ],
)
def test_the_first_difference_is_named(root, key, value, message):
    right = root.arrays["latents"]
    found = metadata_checks.difference({**right, key: value}, right)
    assert re.match(message, found)


def test_checksums_and_levels_make_no_difference(root):
    right = root.arrays["decoded"]
    text = json.dumps(right)
    assert metadata_checks.checksummed(right)
    bare = json.loads(text)
    bare["codecs"] = [codec for codec in bare["codecs"] if codec["name"] != "crc32c"]
    bare["codecs"][-1]["configuration"]["clevel"] = 1
    assert not metadata_checks.checksummed(bare)
    assert metadata_checks.difference(bare, right) is None
    assert metadata_checks.difference(None, right) == "they are missing or cannot be read"


def test_an_unfinished_extension_is_cut_and_nothing_else(root):
    right = root.arrays["image_min"]
    longer = {**right, "shape": [*right["shape"][:2], 9]}
    assert metadata_checks.cut_like(longer, right) == right
    shorter = {**right, "shape": [*right["shape"][:2], 1]}
    assert metadata_checks.cut_like(shorter, right) == shorter
    for other in ({}, {"shape": 3}, {**right, "dimension_names": ["image"]}):
        assert metadata_checks.cut(other, 3) == other


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("format", "calibzebr", "format is 'calibzebr', not 'calibzarr'"),
        ("num_images", 0, "num_images is 0, not a whole number from 1"),
        ("latent_dtype", "int8", "latent_dtype is 'int8'"),
        ("cfg_weight", 7.0, "cfg_weight is 7.0, but 3.0 in its copy"),
        ("sampler", ..., "it lacks sampler"),
    ],
)
def test_a_manifest_is_held_to_its_kind_and_its_copy(root, name, value, message):
    right = {**root.attributes, "cfg_weight": 3.0}
    assert metadata_checks.attribute_errors(right, {"attributes": right}) == []
    wrong = {key: kept for key, kept in {**right, name: value}.items() if kept is not ...}
    assert message in metadata_checks.attribute_errors(wrong, {"attributes": right})


def test_a_model_that_is_not_known_leaves_the_shape_of_latents_to_the_root(root):
    attributes = {**root.attributes, "model": "unheard of"}
    assert registry.find_if_known("unheard of") is None
    assert metadata_checks.wanted_metadata(attributes, root.arrays)[1] == []
    wanted, errors = metadata_checks.wanted_metadata(attributes, {})
    assert (wanted, len(errors)) == ({}, 1)

import hashlib
import json
import re
from importlib.metadata import version

import pytest
import xarray as xr

import calibzarr
from calibzarr.storage import durable, manifest
from calibzarr.storage.manifest import prompts_sha256, read_root
from tests.support.stores import create


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.zarr"
    create(path)
    return path


def test_what_is_no_store_is_refused_with_the_reason(tmp_path, path):
    file = tmp_path / "file"
    file.touch()
    empty = tmp_path / "directory"
    empty.mkdir()
    other = tmp_path / "other.zarr"
    xr.Dataset({"a": ("x", [1])}).to_zarr(other, zarr_format=3, consolidated=False)
    with pytest.raises(FileNotFoundError, match="no store at"):
        read_root(tmp_path / "nothing")
    with pytest.raises(ValueError, match="is a file"):
        read_root(file)
    with pytest.raises(ValueError, match=r"not a calibzarr store: it has no zarr\.json"):
        read_root(empty)
    with pytest.raises(ValueError, match="not a calibzarr store: its format is None"):
        read_root(other)
    metadata = (path / "zarr.json").read_text()
    for nonsense in ("[]", '"x"', '{"attributes": null}', "{}"):
        (path / "zarr.json").write_text(nonsense)
        with pytest.raises(ValueError, match="not a calibzarr store"):
            read_root(path)
    (path / "zarr.json").write_text(metadata.replace('"consolidated_metadata"', '"other"'))
    with pytest.raises(ValueError, match="damaged: it lacks the variable sigma"):
        read_root(path)
    (path / "zarr.json").write_text(metadata[:100])
    with pytest.raises(ValueError, match="damaged"):
        read_root(path)
    newer = metadata.replace('"format_version": 1', '"format_version": 2')
    (path / "zarr.json").write_text(newer)
    with pytest.raises(ValueError, match=r"format version 2; .* reads version 1. Upgrade"):
        calibzarr.open_store(path)


def test_hash_of_prompts_tells_their_boundaries():
    assert prompts_sha256(["ab", "c"]) == hashlib.sha256(b"ab\0c\0").hexdigest()
    assert prompts_sha256(["ab", "c"]) != prompts_sha256(["a", "bc"])


def test_a_root_is_what_the_file_said(path):
    root = read_root(path)
    said = json.loads((path / "zarr.json").read_text())
    assert root.attributes == said["attributes"]
    assert root.arrays == said["consolidated_metadata"]["metadata"]
    assert root.num_images == 3
    manifest.update_attributes(path, {"n_completed": 2})
    assert root.attributes["n_completed"] == 0
    assert read_root(path).attributes["n_completed"] == 2


def test_publishing_changes_what_is_named_and_nothing_else(path):
    before = read_root(path)
    with durable.locked(path):
        manifest.publish(path, {"latent_dtype": None, "new": [1]}, ["seed", "latents"])
    said = json.loads((path / "zarr.json").read_text())
    expected = {**before.attributes, "new": [1]}
    del expected["latent_dtype"]
    assert said["attributes"] == expected
    assert list(said["consolidated_metadata"]["metadata"]) == ["latents", "seed"]


def test_a_stamp_names_versions_and_the_moment():
    made = manifest.made_by(("zarr", "numpy"), "collected")
    assert made["libraries"] == {"zarr": version("zarr"), "numpy": version("numpy")}
    assert re.fullmatch(r"\d{4}(-\d\d){2}T\d\d:\d\d:\d\d\+00:00", made["collected"])

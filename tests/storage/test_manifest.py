import hashlib
import json
import os
import re
import tracemalloc
from contextlib import suppress
from importlib.metadata import version

import pytest
import xarray as xr

import calibzarr
from calibzarr.errors import StoreError
from calibzarr.integrity.repair import repair
from calibzarr.integrity.verification import verify
from calibzarr.storage import commit, manifest, schema
from calibzarr.storage.manifest import prompts_sha256, read_root
from tests.support.stores import create, without_index


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
    with pytest.raises(ValueError, match=r"not a calibzarr store: its zarr\.json is missing"):
        read_root(empty)
    with pytest.raises(ValueError, match=r"not a calibzarr store: its zarr\.json says format None"):
        read_root(other)


def test_what_is_not_what_was_written_is_refused_with_the_remedy(path):
    file = path / "zarr.json"
    metadata = file.read_text()
    for nonsense in ("[]", '"x"', '{"attributes": null}', "{}", metadata[:100], "[" * 10**5):
        file.write_text(nonsense)
        with pytest.raises(StoreError, match=r"damaged: its zarr\.json .*calibzarr\.repair"):
            read_root(path)
    for old, new in (("latent_dtype", "latent_dtypf"), ('"inline"', '"inlinf"'), ("zstd", "zrtd")):
        file.write_text(metadata.replace(old, new, 1))
        with pytest.raises(StoreError, match="is not what was written"):
            read_root(path)
    file.write_text(json.dumps(json.loads(metadata)))  # the same in other words
    assert read_root(path).num_images == 3
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(StoreError, match="is no regular file"):
        read_root(path)
    newer = metadata.replace('"format_version": 1', '"format_version": 2')
    for copy in (file, path / "copies" / "root.json"):
        copy.unlink()
        copy.write_text(newer)
    with pytest.raises(StoreError, match=r"format version 2; .* reads version 1. Upgrade"):
        calibzarr.open_store(path)


@pytest.mark.parametrize("value", [None, True, "x", 1.5, [], {}, 10**30, -1])
def test_a_root_without_a_digest_is_held_to_its_types(path, value):
    without_index(path)
    metadata = json.loads((path / "zarr.json").read_text())
    arrays = metadata["consolidated_metadata"]["metadata"]
    for name in ("activations", "num_images", "libraries"):
        if isinstance(value, int if name == "num_images" else dict) and value is not True:
            continue
        changed = {**metadata, "attributes": {**metadata["attributes"], name: value}}
        (path / "zarr.json").write_text(json.dumps(changed))
        with pytest.raises(StoreError, match=f"says {name}"):
            read_root(path)
    for name, key in (("seed", "shape"), ("latents", "codecs"), ("latents", "shape")):
        changed = {**arrays, name: {**arrays[name], key: value}}
        metadata["consolidated_metadata"]["metadata"] = changed
        (path / "zarr.json").write_text(json.dumps(metadata))
        with pytest.raises(StoreError, match=r"damaged: its zarr\.json (says|describes)"):
            read_root(path)


def test_more_images_than_any_store_has_are_refused_before_anything_is_made_for_them(path):
    without_index(path)
    root = json.loads((path / "zarr.json").read_text())
    for metadata in root["consolidated_metadata"]["metadata"].values():
        if "image" in metadata["dimension_names"]:
            metadata["shape"][metadata["dimension_names"].index("image")] = 10**12
    (path / "zarr.json").write_text(json.dumps(root))
    tracemalloc.start()
    try:
        for use in (read_root, calibzarr.open_store, verify, repair):
            with suppress(ValueError):
                use(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    with pytest.raises(StoreError, match=r"says shape \[1000000000000.* of prompt"):
        read_root(path)


def test_hash_of_prompts_tells_their_boundaries():
    assert prompts_sha256(["ab", "c"]) == hashlib.sha256(b"ab\0c\0").hexdigest()
    assert prompts_sha256(["ab", "c"]) != prompts_sha256(["a", "bc"])


def test_a_root_is_what_the_file_said(path):
    root = read_root(path)
    said = json.loads((path / "zarr.json").read_text())
    assert root.attributes == said["attributes"]
    assert root.arrays == said["consolidated_metadata"]["metadata"]
    assert root.num_images == 3
    commit.update_attributes(path, {"n_completed": 2})
    assert root.attributes["n_completed"] == 0
    assert read_root(path).attributes["n_completed"] == 2


def test_a_stamp_names_versions_and_the_moment():
    made = manifest.made_by(("zarr", "numpy"), "collected")
    assert made["libraries"] == {"zarr": version("zarr"), "numpy": version("numpy")}
    assert re.fullmatch(r"\d{4}(-\d\d){2}T\d\d:\d\d:\d\d\+00:00", made["collected"])


def test_a_guidance_decides_what_a_store_is_and_older_stores_stay_what_they_were():
    names = ("model", "cfg_weight", "seed", "noise")
    older = dict.fromkeys(names, 1)
    content = {name: older.get(name) for name in (*schema.FINGERPRINT, *schema.FORMULAS)}
    content |= {"prompts": ["a"], "seeds": [2]}
    expected = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert manifest.fingerprint(older, ["a"], [2]) == expected
    told = {manifest.fingerprint({**older, "guidance": g}, ["a"], [2]) for g in (3.0, 3.5)}
    assert len(told | {expected}) == 3

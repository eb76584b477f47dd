import json
import re
import shutil

import numpy as np
import pytest
import xarray as xr
import zarr

import calibzarr
from calibzarr.errors import Call
from calibzarr.integrity import sensitivity_checks
from calibzarr.integrity.repair import repair
from calibzarr.integrity.verification import verify
from calibzarr.storage import schema, staging, store
from calibzarr.storage.manifest import read_root, update_attributes
from tests.support.measuring import measure
from tests.support.stores import open_strictly, snapshot

SAME = {"images": 2, "probes": 3, "steps": [1, 4], "clip": "lp"}
NAMES = schema.MEASUREMENT.names

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("loaded_once")]


@pytest.fixture(scope="module")
def whole(make_store, tmp_path_factory):
    """A store of 4 images with sensitivities in which nothing is wrong."""
    built = {"num_images": 4, "num_steps": 5, "cfg_weight": 1.0, "image_size": 32}
    observed = make_store(**built, collect={"num_images": 3, "steps": [0, 5]})
    path = shutil.copytree(observed, tmp_path_factory.mktemp("measured") / "a.zarr")
    measure(path, **SAME)
    assert verify(path).findings == ()
    return path


@pytest.fixture
def path(whole, tmp_path):
    """A copy of it to spoil."""
    return shutil.copytree(whole, tmp_path / "a.zarr")


def errors(path):
    """What is wrong with the sensitivities, without a look at anything else."""
    root = read_root(path)
    complete = store.completed(path, root.num_images)
    tally = sensitivity_checks.check(store.open_group(root, mode="r"), root.attributes, complete)
    return [finding.message for finding in tally.findings]


def found(path, check="sensitivities"):
    """What is wrong with the store, which is of one kind."""
    findings = verify(path).findings
    assert {finding.check for finding in findings} <= {check}
    return [finding.message for finding in findings]


def sensitivities(path):
    """Without the names of the layers."""
    dataset = open_strictly(path).load()
    return xr.Dataset({name: dataset[name].variable for name in NAMES})


def test_all_of_it_is_checked_once_and_each_step(whole):
    assert verify(whole).passed["sensitivities"] == 1 + 2
    before = snapshot(whole)
    assert repair(whole).actions == ()
    assert snapshot(whole) == before


def spoil(chunk, damage):
    data = bytearray(chunk.read_bytes())
    if damage == "delete":
        chunk.unlink()
        return
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data if damage == "flip" else data[: len(data) // 2])


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_every_damaged_chunk_is_found(path, damage):
    for name in NAMES:
        for chunk in (path / name).glob("c*"):
            data = chunk.read_bytes()
            spoil(chunk, damage)
            assert errors(path), chunk
            chunk.write_bytes(data)
    assert errors(path) == []


@pytest.mark.parametrize(
    ("name", "damage"),
    [("signed_product", "flip"), ("sensitivity_step", "truncate"), ("output_power", "delete")],
)
def test_damaged_ones_are_set_aside_and_measured_again(path, whole, name, damage):
    spoil(sorted((path / name).glob("c*"))[-1], damage)
    assert found(path)
    told = repair(path, dry_run=True)
    result = repair(path)
    assert told == result
    assert result.calls == (Call("sensitivity", (path,), SAME), Call("verify", (path,)))
    assert "moved the sensitivities to latents/damaged" in result.actions[0]
    assert (path / "latents" / "damaged" / name / "zarr.json").exists()
    assert verify(path).findings == ()
    dataset = open_strictly(path)
    assert not set(NAMES) & set(dataset.variables)
    assert schema.SENSITIVITY not in dataset.attrs
    for other in schema.COLLECTION.names:
        xr.testing.assert_identical(dataset[other].variable, open_strictly(whole)[other].variable)
    measure(path, **SAME)
    assert verify(path).findings == ()
    xr.testing.assert_identical(sensitivities(path), sensitivities(whole))


WRONG = [
    ("sensitivity_step", 0, 4, "which are no calls from 0 to 4"),
    ("sensitivity_step", 1, 5, "which are no calls from 0 to 4"),
    ("sensitivity_step", 1, 3, r"is \[1, 3\], not \[1, 4\]"),
    ("sensitivity_image", 0, 4, "are no images of the store"),
    ("sensitivity_image", 0, -1, "are no images of the store"),
    ("probe", 0, 1, r"probe is \[1, 1, 2\]"),
    ("quantizer", 3, "activation-tensor-1", "there is no quantizer 'activation-tensor-1'"),
    ("quantizer", 0, "activation-token-2", "a quantizer is there twice"),
    ("quantizer_bits", 3, 1, "are not its own"),
    ("quantizer_kind", 3, "weight", "are not its own"),
    ("quantizer_scheme", 3, "row", "are not its own"),
    ("output_power", (0, 1), 0, "step 1: output_power is not"),
    ("output_power", (1, 1), 3, "step 4: weight_sensitivity does not follow"),
    ("signed_product", (3, 0, 2, 1, 1), 9, "step 1: activation_sensitivity does not follow"),
    ("signed_product", (3, 1, 20, 1, 1), np.nan, "step 4: signed_product has .* missing"),
    ("signed_product", (3, 1, 20, 1, 1), np.inf, "step 4: signed_product has infinite"),
    ("activation_sensitivity", (3, 0, 2), 9, "step 1: activation_sensitivity does not follow"),
    ("weight_sensitivity", (3, 0, 2), 9, "step 1: weight_sensitivity does not follow"),
    ("weight_sensitivity_error", (3, 1, 20), 9, "step 4: weight_sensitivity_error does not"),
    ("activation_sensitivity_error", (3, 1, 2), np.nan, "activation_sensitivity_error does not"),
    ("sensitivity_clip_min", (3, 2), 1e9, "are no ranges of activations"),
    ("sensitivity_clip_max", (3, 2), np.nan, "are no ranges of activations"),
    ("sensitivity_clip_max", (3, 2), np.inf, "are no ranges of activations"),
    ("amplification", 2, np.nan, "amplification is not finite at calls"),
    ("amplification", 4, 0.9, "1 at the last"),
    ("amplification", 5, 0.9, "NaN at the final state"),
    ("amplification", 1, 0.01, "amplification is not what the measured values come to"),
]


def test_wrong_values_are_named(path):
    group = zarr.open_group(path)
    for name, selection, value, message in WRONG:
        old = group[name][selection]
        group[name][selection] = value
        assert any(re.search(message, error) for error in errors(path)), message
        group[name][selection] = old[()] if isinstance(old, np.ndarray) else old
    assert errors(path) == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("clip", "best", "their ranges are chosen by 'best'"),
        ("stamp", 3, "their stamp is 3"),
        ("num_images", 3, "num_images is 3, but there are 2"),
        ("num_probes", 2, "num_probes is 2, but there are 3"),
        ("steps", [1, 2], r"sensitivity_step is \[1, 4\], not \[1, 2\]"),
        ("model_fingerprint", "other", "they are of weights of fingerprint other"),
        ("amplification", None, "they cannot be read"),
    ],
)
def test_a_wrong_description_is_named(path, key, value, message):
    about = dict(read_root(path).attributes["sensitivity"])
    update_attributes(path, {"sensitivity": {**about, key: value}})
    (error,) = errors(path)
    assert re.search(message, error)


def test_a_description_that_is_none_is_set_aside_with_what_it_describes(path):
    update_attributes(path, {"sensitivity": "lost"})
    assert len(found(path)) == 1
    assert repair(path).calls[0] == Call("sensitivity", (path,))
    assert verify(path).findings == ()


@pytest.mark.parametrize("names", [["signed_product", "quantizer"], ["sensitivity_step"]])
@pytest.mark.parametrize("place", ["root", "array"])
def test_metadata_are_checked_and_put_back(path, whole, names, place):
    for name in names:
        file = path / "zarr.json" if place == "root" else path / name / "zarr.json"
        content = json.loads(file.read_text())
        metadata = (
            content["consolidated_metadata"]["metadata"][name] if place == "root" else content
        )
        metadata["shape"] = [size + 1 for size in metadata["shape"]]
        file.write_text(json.dumps(content))
    assert {message.split(",")[0] for message in found(path, "metadata")} == set(names)
    repair(path)
    assert verify(path).findings == ()
    assert snapshot(path / names[0]) == snapshot(whole / names[0])
    xr.testing.assert_identical(sensitivities(path), sensitivities(whole))


def test_as_many_layers_as_the_statistics_have(path):
    files = [*(path / name / "zarr.json" for name in NAMES), path / "zarr.json"]
    for file in files:
        content = json.loads(file.read_text())
        listed = content.get("consolidated_metadata", {}).get("metadata")
        for metadata in [content] if listed is None else [listed[name] for name in NAMES]:
            if "layer" in metadata["dimension_names"]:
                metadata["shape"][0] = 59
        file.write_text(json.dumps(content))
    start = "signed_product, in the root's metadata: its shape is [59, "
    assert any(message.startswith(start) for message in found(path, "metadata"))


def test_an_image_that_is_lost_is_named_until_it_is_built_again(path, whole):
    image = int(open_strictly(path).sensitivity_image[1])
    shard = path / "latents" / schema.LATENTS.key(image)
    shard.write_bytes(shard.read_bytes()[:99])
    repair(path)
    assert ("sensitivities", image) in {(f.check, f.image) for f in verify(path).findings}
    calibzarr.build(path, resume=True)
    assert verify(path).findings == ()
    xr.testing.assert_identical(sensitivities(path), sensitivities(whole))


def test_damaged_statistics_leave_them_to_be_named_by_the_next_collection(path, whole):
    """The passes are dear, and their rows are the model's layers, which a collection names."""
    chunk = next((path / "layer").glob("c*"))
    chunk.write_bytes(chunk.read_bytes()[:-9])
    result = repair(path)
    assert [call.function for call in result.calls] == ["collect", "verify"]
    assert verify(path).findings == ()
    dataset = open_strictly(path)
    assert "layer" not in dataset.coords
    assert dataset.sizes["layer"] == open_strictly(whole).sizes["layer"]
    assert repair(path).actions == ()
    calibzarr.collect(path, num_images=3, steps=[0, 5])
    assert verify(path).findings == ()
    xr.testing.assert_identical(sensitivities(path), sensitivities(whole))
    assert open_strictly(path).layer.values.tolist() == open_strictly(whole).layer.values.tolist()


def test_both_damaged_are_made_again_in_the_order_of_the_calls(path):
    for name in ("value_mean", "signed_product"):
        chunk = next((path / name).glob("c*"))
        chunk.write_bytes(chunk.read_bytes()[:-9])
    assert [call.function for call in repair(path).calls] == ["collect", "sensitivity", "verify"]
    assert verify(path).findings == ()


class Killed(BaseException):
    """Nothing catches this: as if the process were gone."""


def kill(*_):
    raise Killed


@pytest.mark.parametrize("moment", ["_install", "manifest.publish", "store.resize_images"])
def test_a_killed_installation_is_finished(path, whole, monkeypatch, moment):
    """Before anything is moved, before the old ones are hidden, and before the new are listed."""
    with monkeypatch.context() as patch:
        patch.setattr(f"calibzarr.storage.staging.{moment}", kill)
        with pytest.raises(Killed):
            measure(path, **SAME, force=True)
    assert (path / schema.MEASUREMENT.staged).exists()
    result = repair(path)
    assert result.actions == ("put new sensitivities into their place",)
    assert verify(path).findings == ()
    assert not (path / schema.MEASUREMENT.staged).exists()
    xr.testing.assert_identical(sensitivities(path), sensitivities(whole))


def test_staged_ones_that_are_damaged_are_kept_aside(path, whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(staging, "_install", kill)
        with pytest.raises(Killed):
            measure(path, **SAME, force=True)
    (path / schema.MEASUREMENT.staged / "zarr.json").write_text("{")
    result = repair(path)
    assert result.actions[0].startswith("moved new sensitivities to latents/damaged, for they are")
    assert verify(path).findings == ()
    xr.testing.assert_identical(sensitivities(path), sensitivities(whole))


def test_a_store_that_grows_keeps_them(path, whole):
    calibzarr.build(path, num_images=6, resume=True)
    assert verify(path).findings == ()
    xr.testing.assert_identical(sensitivities(path), sensitivities(whole))
    measure(path, **{**SAME, "images": 3})
    assert open_strictly(path).sizes["sensitivity_image"] == 3
    assert verify(path).findings == ()


def test_newer_statistics_keep_them_as_they_are(path, whole):
    calibzarr.collect(path, num_images=2, steps=[0, 1], force=True)
    xr.testing.assert_identical(sensitivities(path), sensitivities(whole))
    assert verify(path).findings == ()

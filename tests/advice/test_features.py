import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import calibzarr
from calibzarr.advice import analysis
from calibzarr.advice import features as recommended_features
from calibzarr.errors import OptionError
from calibzarr.export import config
from calibzarr.models import registry
from calibzarr.storage import collected, durable, manifest, schema, store
from tests.support.stores import open_strictly, shrunk, snapshot

pytestmark = pytest.mark.slow


DTYPES = {
    "recommended_shift": np.float32,
    "recommended_smoothing_scale": np.float32,
    "recommended_outlier": np.bool_,
    "recommended_multiplier": np.int32,
}


@pytest.fixture
def path(replayed, tmp_path):
    path = tmp_path / "a.zarr"
    shutil.copytree(replayed.path, path)
    return path


@pytest.fixture(scope="module")
def advised(replayed, tmp_path_factory):
    """A store with advice for each feature, as the command leaves it."""
    directory = tmp_path_factory.mktemp("advised")
    path = directory / "a.zarr"
    shutil.copytree(replayed.path, path)
    config.export(path, directory / "a.json")
    return path


def advise(path, alpha=0.5):
    values = recommended_features.compute(analysis.open_statistics(path), alpha)
    recommended_features.write(path, values, {"smoothquant_alpha": alpha})


def without_advice(path):
    """Hashes of a store's files but for its advice, and what readers see of all else."""
    root = json.loads((path / "zarr.json").read_text())
    listed = root["consolidated_metadata"]["metadata"]
    root["attributes"].pop("recommended", None)
    for name in DTYPES:
        listed.pop(name, None)
    files = {
        name: digest
        for name, digest in snapshot(path).items()
        if name not in ("zarr.json", "prompt/backup/root.json")  # the latter is its copy
        and not name.startswith("recommended")
    }
    return files, root


def test_variables_are_as_the_schema_says_and_plain_xarray_opens_them(advised):
    dataset = open_strictly(advised)
    assert {variable.name for variable in schema.RECOMMENDED_VARIABLES} == set(DTYPES)
    for name, dtype in DTYPES.items():
        assert dataset[name].dims == ("layer", "feature")
        assert dataset[name].dtype == dtype
        assert dataset[name].attrs["long_name"]
        assert "module" in dataset[name].coords
        assert name in dataset.data_vars
    assert dataset.recommended_shift.attrs["units"] == dataset.feature_min.attrs["units"]
    assert dataset.attrs["recommended"] == {
        "smoothquant_alpha": 0.5,
        "outlier_factor": 2.5,
        "statistics": dataset.attrs["activations"]["stamp"],
    }


def test_all_else_in_the_store_is_untouched(advised, replayed):
    assert without_advice(advised) == without_advice(replayed.path)
    names = {Path(name).parts[0] for name in snapshot(advised)}
    assert names - {Path(name).parts[0] for name in snapshot(replayed.path)} == set(DTYPES)


def test_shifts_are_of_post_gelu_inputs_alone(advised, replayed):
    dataset = open_strictly(advised)
    layer = "mm_block_2.image.mlp.fc2"
    values = replayed.values(layer).astype(np.float64)  # image, step, token, feature
    middle = (values.min(axis=2) + values.max(axis=2)) / 2
    expected, width = middle.mean(axis=(0, 1)), values.shape[-1]
    actual = dataset.recommended_shift.sel(layer=layer).values
    np.testing.assert_allclose(actual[:width], expected, rtol=1e-4, atol=1e-5)
    assert np.isnan(actual[width:]).all()
    has = dataset.recommended_shift.notnull().any("feature")
    second = [name for name in dataset.layer.values if "mm_block" in name and "fc2" in name]
    assert dataset.layer.values[has].tolist() == second


def test_smoothing_scales_are_those_of_raw_values_and_shared_by_q_k_and_v(advised, replayed):
    dataset = open_strictly(advised)
    layers = [f"mm_block_1.text.attn.{part}_proj" for part in "qkv"]
    activation = np.abs(replayed.values(layers[0])).max(axis=(0, 1, 2))
    weight = np.max([np.abs(replayed.weights[layer]).max(axis=0) for layer in layers], axis=0)
    scale = dataset.recommended_smoothing_scale
    for layer in layers:
        actual = scale.sel(layer=layer).values[: len(weight)]
        np.testing.assert_allclose(actual, np.sqrt(activation / weight), rtol=1e-5)
    linear = dataset.role.values == "input"
    assert scale[linear].notnull().any("feature").all()
    assert scale[~linear].isnull().all()


def test_outliers_are_those_of_raw_values(advised, replayed):
    dataset = open_strictly(advised)
    for layer in ("mm_block_0.image.mlp.fc2", "mm_block_1.text.attn.o_proj", "mm_block_2"):
        values = replayed.values(layer).astype(np.float64)
        ranges = values.max(axis=(0, 1, 2)) - values.min(axis=(0, 1, 2))
        expected = ranges > 2.5 * np.median(ranges[ranges > 0])
        actual = dataset.recommended_outlier.sel(layer=layer).values
        np.testing.assert_array_equal(actual[: len(ranges)], expected)
        assert not actual[len(ranges) :].any()
        multiplier = dataset.recommended_multiplier.sel(layer=layer).values
        assert (multiplier[: len(ranges)][~expected] == 1).all()
        assert (multiplier >= 1).all()


def test_a_second_export_replaces_the_first(path):
    advise(path, 0.5)
    first, files = open_strictly(path), snapshot(path).keys()
    advise(path, 1.0)
    second = open_strictly(path)
    assert snapshot(path).keys() == files
    assert second.attrs["recommended"]["smoothquant_alpha"] == 1
    reach = np.fmax(-first.feature_min, first.feature_max).max("step")
    known = (first.weight_feature_max > 0) & (reach > 0)
    alone = ~first.layer.str.contains("attn.[qkv]_proj")
    np.testing.assert_allclose(
        second.recommended_smoothing_scale.where(known & alone),
        reach.where(known & alone),
        rtol=1e-6,
    )
    xr.testing.assert_identical(first.recommended_shift, second.recommended_shift)


@pytest.mark.usefixtures("loaded_once")
def test_a_later_collection_removes_advice_from_the_old_statistics(path):
    advise(path)
    calibzarr.collect(path, steps=[1], num_images=1, force=True)
    dataset = open_strictly(path)
    assert not set(DTYPES) & set(dataset.variables)
    assert "recommended" not in dataset.attrs
    assert not list(path.glob("recommended*"))
    advise(path)
    assert set(DTYPES) <= set(open_strictly(path).variables)


class Killed(BaseException):
    """Nothing catches this: as if the process were gone."""


def killed_at(number, patch):
    """Let the process die at its ``number``-th change of a name; it changes nothing after."""
    left = [number]
    originals = {
        (owner, name): getattr(owner, name)
        for owner, name in (
            (Path, "rename"),
            (Path, "replace"),
            (Path, "unlink"),
            (shutil, "rmtree"),
        )
    }

    def dying(original, name):
        def call(target, *arguments, **options):
            if left[0] > 0:
                left[0] -= 1
                return original(target, *arguments, **options)
            if left[0] == 0 and name == "rmtree" and Path(target).is_dir():  # half of it is gone
                for file in sorted(Path(target).rglob("zarr.json"))[:1]:
                    os.remove(file)
            left[0] = -1
            raise Killed

        return call

    for (owner, name), original in originals.items():
        patch.setattr(owner, name, dying(original, name))


def test_a_kill_at_any_moment_leaves_a_readable_store(replayed, tmp_path):
    path = shrunk(replayed.path, tmp_path / "a.zarr")
    statistics = analysis.open_statistics(path)
    old, new = (recommended_features.compute(statistics, alpha) for alpha in (0.5, 0.25))
    recommended_features.write(path, old, {"smoothquant_alpha": 0.5})
    others, files = without_advice(path), snapshot(path).keys()
    found = set()
    for number in range(200):
        with pytest.MonkeyPatch.context() as patch:
            killed_at(number, patch)
            try:
                recommended_features.write(path, new, {"smoothquant_alpha": 0.25})
            except Killed:
                killed = True
            else:
                killed = False
        dataset = open_strictly(path)
        present = set(DTYPES) & set(dataset.variables)
        assert present in (set(), set(DTYPES))
        assert ("recommended" in dataset.attrs) == bool(present)
        alpha = dataset.attrs["recommended"]["smoothquant_alpha"] if present else None
        expected = {0.5: old, 0.25: new}.get(alpha, {})
        for name, values in expected.items():
            np.testing.assert_array_equal(dataset[name], values)
        found.add(alpha)
        left = {name for name in without_advice(path)[0] if ".partial" not in name}
        assert left == set(others[0])
        assert without_advice(path)[1] == others[1]
        if not killed:
            break
        if alpha != 0.5:
            recommended_features.write(path, old, {"smoothquant_alpha": 0.5})
        for partial in path.rglob("*.partial"):
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
    assert not killed
    assert number > 15
    assert found == {0.5, None, 0.25}
    assert snapshot(path).keys() == files


def test_two_exports_at_once_leave_the_advice_of_one(replayed, tmp_path):
    path = shrunk(replayed.path, tmp_path / "a.zarr")
    statistics = analysis.open_statistics(path)
    advice = {alpha: recommended_features.compute(statistics, alpha) for alpha in (0.5, 0.25)}

    def write_often(alpha):
        for _ in range(10):
            recommended_features.write(path, advice[alpha], {"smoothquant_alpha": alpha})

    with ThreadPoolExecutor(2) as both:
        list(both.map(write_often, advice))
    dataset = open_strictly(path)
    for name, values in advice[dataset.attrs["recommended"]["smoothquant_alpha"]].items():
        np.testing.assert_array_equal(dataset[name], values)
    assert not list(path.glob("*.staged*"))


def test_what_a_kill_leaves_does_not_hinder_a_collection(path):
    advise(path)
    with pytest.MonkeyPatch.context() as patch:
        publish = manifest.publish

        def publish_until_killed(path, attributes, names=None):
            if attributes.get("recommended"):
                raise Killed
            publish(path, attributes, names)

        patch.setattr(manifest, "publish", publish_until_killed)
        with pytest.raises(Killed):
            advise(path, 0.25)
    assert "recommended_shift" not in open_strictly(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load", lambda name: pytest.fail("loaded a model"))
        collected.install(path)  # nothing new
        assert calibzarr.collect(path, images=(0, 5)).num_images == 5  # nothing to replay
    advise(path, 0.25)
    assert set(DTYPES) <= set(open_strictly(path).variables)
    assert not list(path.glob("*.staged"))


def test_without_features_the_store_stays_as_it_is(path, tmp_path):
    before = snapshot(path)
    config.export(path, tmp_path / "a.json", smoothquant_alpha=None)
    assert snapshot(path) == before
    assert "features" not in json.loads((tmp_path / "a.json").read_text())


def test_a_store_that_cannot_be_written_is_told_before_anything_is(replayed, tmp_path, monkeypatch):
    path = shrunk(replayed.path, tmp_path / "a.zarr")
    for entry in [path, *path.rglob("*")]:
        entry.chmod(entry.stat().st_mode & ~0o222)
    if os.geteuid() == 0:  # whom modes do not stop: ask them as for anybody else
        monkeypatch.setattr(
            os, "access", lambda own, mode: not mode & ~(Path(own).stat().st_mode >> 6)
        )
    before = snapshot(path)
    try:
        with pytest.raises(PermissionError, match=r"cannot write .*a\.zarr: no write permission"):
            config.export(path, tmp_path / "a.json")
        assert not (tmp_path / "a.json").exists()
        config.export(path, tmp_path / "a.json", smoothquant_alpha=None)
        config.export(path, tmp_path / "b.json", file_format="mlx")
        assert snapshot(path) == before
    finally:
        for entry in [path, *path.rglob("*")]:
            entry.chmod(entry.stat().st_mode | 0o200)


def test_a_configuration_that_cannot_be_written_leaves_the_old_one(replayed, tmp_path, monkeypatch):
    path, file = shrunk(replayed.path, tmp_path / "a.zarr"), tmp_path / "a.json"
    file.write_text("old")
    write = durable.write

    def full(target, data):
        if target == file:
            raise OSError(28, "No space left on device", str(target))
        write(target, data)

    monkeypatch.setattr(durable, "write", full)
    with pytest.raises(OSError, match="No space left"):
        config.export(path, file, force=True)
    assert file.read_text() == "old"
    assert open_strictly(path).sizes["layer"] == 21


@pytest.mark.parametrize("alpha", [-0.1, 1.1, np.nan])
def test_wrong_alpha_is_refused(replayed, alpha):
    statistics = analysis.open_statistics(replayed.path).isel(layer=slice(0, 3))
    with pytest.raises(OptionError, match=r"alpha must be in \[0, 1\]"):
        recommended_features.compute(statistics, alpha)


def test_large_scales_with_few_bits_of_weights_are_risky():
    scales = np.array([[1, 31.9], [1, 32], [32, np.nan], [np.nan, np.nan], [400, 2]])
    values = {"recommended_smoothing_scale": scales}
    risky = recommended_features.risky_layers(values, np.array([2, 4, 6, 4, 2]))
    assert risky.tolist() == [False, True, False, False, True]


def test_the_user_is_warned_of_risky_scales(replayed, tmp_path):
    path = shrunk(replayed.path, tmp_path / "a.zarr")
    widest = store.array(store.open_group(path), "feature_max")
    widest[7, :, 0] = 1e4
    result = config.export(path, tmp_path / "a.json", weight_target=5)
    entries = json.loads((tmp_path / "a.json").read_text())["layer_configs"]
    greatest = open_strictly(path).recommended_smoothing_scale.max("feature").to_series()
    risky = [
        layer for layer, own in entries.items() if greatest[layer] >= 32 and own["weight_bits"] <= 4
    ]
    assert "mm_block_0.image.attn.o_proj" in risky
    (warning,) = [text for text in map(str, result.warnings) if "smoothing" in text]
    assert f"of {len(risky)} layers are 32 or more" in warning
    assert f"the first is {risky[0]}" in warning
    assert "smoothquant_alpha" in warning

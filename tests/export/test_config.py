import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version

import numpy as np
import pytest
import zarr

import calibzarr
from calibzarr.advice import analysis
from calibzarr.advice.choices import GRANULARITIES
from calibzarr.collecting import measured
from calibzarr.errors import OptionError
from calibzarr.export import config
from calibzarr.quantization.configuration import check_model, parse, read
from calibzarr.quantization.prediction import predict
from calibzarr.quantization.quantizers import affine
from calibzarr.storage.manifest import read_root
from tests.support.files import read_json
from tests.support.measuring import measure
from tests.support.stores import shrunk, snapshot

BITS = range(2, 9)


@pytest.fixture(scope="module")
def small(replayed, tmp_path_factory):
    """A store with statistics of a few layers."""
    return shrunk(replayed.path, tmp_path_factory.mktemp("small") / "a.zarr")


@pytest.fixture(scope="module")
def exported(replayed, tmp_path_factory):
    """The default configuration of the embedded model."""
    file = tmp_path_factory.mktemp("exported") / "deeper" / "config.json"
    return file, config.export_config(replayed.path, file)


@pytest.fixture(scope="module")
def written(exported):
    return read_json(exported[0])


def test_every_row_is_a_layer_of_the_model_with_the_range_of_its_statistics(
    exported, written, replayed, tiny
):
    configuration = read(exported[0])
    check_model(configuration, tiny.layers(), tiny.fingerprint, tiny.name)
    layers = {layer.name: layer for layer in tiny.layers()}
    assert list(written["layer_configs"]) == [*layers]
    for name, row in written["layer_configs"].items():
        layer, values, statistics = layers[name], replayed.values(name), row["calibration_stats"]
        assert [row[key] for key in ("module", "role", "stream", "kind")] == [
            getattr(layer, key) for key in ("module", "role", "stream", "kind")
        ]
        assert statistics["min"] == pytest.approx(values.min(), rel=1e-8)
        assert statistics["max"] == pytest.approx(values.max(), rel=1e-8)
        std = values.std(dtype=np.float64)
        assert statistics["mean"] == pytest.approx(values.mean(dtype=np.float64), abs=1e-6 * std)
        assert statistics["std"] == pytest.approx(std, rel=1e-6)
        tails = np.percentile(values, [1, 99])
        np.testing.assert_allclose(
            [statistics["p01"], statistics["p99"]], tails, rtol=0.01, atol=2e-6
        )
        assert statistics["min"] <= row["clip_min"] <= row["clip_max"] <= statistics["max"]


def test_scales_are_those_of_the_range(written):
    for row in written["layer_configs"].values():
        own = row["activation"]
        if own is None:
            continue
        low, high = min(row["clip_min"], 0), max(row["clip_max"], 0)
        assert own["scale"] == np.float32(own["scale"])
        assert own["scale"] == pytest.approx((high - low) / own["highest"], rel=1e-6)
        assert own["zero_point"] == pytest.approx(-low / own["scale"], abs=0.5 + 1e-4)


def read_like_an_old_reader(file):
    """Bits and clipping range by layer, from the keys that the old files have and no other."""
    content = json.loads(file.read_text())
    default = content["default_config"]
    assert set(default) == {"weight_bits", "activation_bits"}
    quantizers = {}
    for layer, own in content["layer_configs"].items():
        assert own["use_symmetric"] is False
        low, high = own["clip_percentile"]
        assert 0 <= low < high <= 100
        statistics = own["calibration_stats"]
        assert set(statistics) == {"min", "max", "mean", "std", "p01", "p99"}
        assert all(isinstance(value, float) for value in statistics.values())
        ends = (
            statistics["p01"] if low == 1 else statistics["min"],
            statistics["p99"] if high == 99 else statistics["max"],
        )
        quantizers[layer] = (own["weight_bits"], own["activation_bits"], ends)
    for weight_bits, activation_bits, _ in [*quantizers.values(), (*default.values(), None)]:
        assert type(weight_bits) is type(activation_bits) is int
        assert {weight_bits, activation_bits} <= {*BITS, 16}
    return quantizers


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_old_readers_accept_it(small, tmp_path, granularity):
    file = tmp_path / "old.json"
    result = config.export_config(small, file, granularity=granularity, method="range")
    quantizers = read_like_an_old_reader(file)
    dataset = analysis.open_statistics(small)
    roles = {"block": ["output"], "linear": ["input"], "all": ["input", "output"]}[granularity]
    assert list(quantizers) == dataset.layer.values[dataset.role.isin(roles)].tolist()
    assert result.num_layers == len(quantizers)
    content = read_json(file)
    for layer, (_, _, ends) in quantizers.items():  # it clips where the old reader thinks
        entry = content["layer_configs"][layer]
        assert [entry["clip_min"], entry["clip_max"]] == list(ends)
    most = [max(own[kind] for own in quantizers.values() if own[kind] < 16) for kind in (0, 1)]
    assert list(content["default_config"].values()) == most


def test_an_old_reader_accepts_the_default(exported, written):
    quantizers = read_like_an_old_reader(exported[0])
    assert len(quantizers) == exported[1].num_layers == len(written["layer_configs"])


def test_the_old_rule_is_that_of_raw_percentiles(replayed, tiny, tmp_path):
    text_only = {layer.name for layer in tiny.layers() if layer.text_only}
    config.export_config(replayed.path, tmp_path / "a.json", method="range")
    content = read_json(tmp_path / "a.json")
    assert content["provenance"]["method"] == "range"
    clear = 0
    for layer, entry in content["layer_configs"].items():
        values = replayed.values(layer)
        p01, p99 = np.percentile(values, [1, 99]).tolist()
        std, whole = values.std(dtype=np.float64), float(values.max()) - float(values.min())
        unsure = 0.01 * (abs(p01) + abs(p99))  # a bin's width
        bits, percentiles = set(), set()
        for central in (p99 - p01 - unsure, p99 - p01, p99 - p01 + unsure):
            by_range = 8 if central > 10 else 6 if central > 5 else 4
            bits.add(min(by_range + 2, 8) if std > 0.5 * central else by_range)
            percentiles.add((1, 99) if central / whole < 0.9 else (0, 100))
        clear += len(bits) == len(percentiles) == 1
        if entry["activation_bits"] == 16 or entry["role"] == "output" or layer in text_only:
            continue
        assert entry["weight_bits"] in bits, layer
        assert entry["activation_bits"] in bits, layer
        assert tuple(entry["clip_percentile"]) in percentiles, layer
        statistics = entry["calibration_stats"]
        ends = ("p01", "p99") if entry["clip_percentile"] == [1, 99] else ("min", "max")
        assert [entry["clip_min"], entry["clip_max"]] == [statistics[end] for end in ends]
    assert clear > 0.8 * len(content["layer_configs"])


def test_it_says_where_it_is_from(written, replayed):
    manifest, provenance = read_root(replayed.path).attributes, written["provenance"]
    assert (provenance["method"], provenance["keep"]) == ("budget", [])
    for name in ("model", "model_fingerprint", "prompts_sha256", "num_steps"):
        assert provenance[name] == manifest[name]
    assert provenance["statistics"] == manifest["activations"]["stamp"]
    assert (provenance["num_images"], provenance["steps"]) == (5, [0, 1, 2, 3])
    assert provenance["sensitivities"] is None
    assert provenance["libraries"]["calibzarr"] == version("calibzarr")
    date = datetime.fromisoformat(provenance["date"])
    assert timedelta(0) <= datetime.now(UTC) - date < timedelta(hours=1)


@pytest.mark.slow
def test_equal_statistics_give_equal_bytes_but_for_the_date(replayed, exported, tmp_path):
    file, again = exported[0], tmp_path / "again.json"
    config.export_config(replayed.path, again)
    date = re.compile(rb'"date": "[^"]*"')
    first, second = (date.sub(b'"date": ""', each.read_bytes()) for each in (file, again))
    assert first == second
    assert first != file.read_bytes()


def test_options_of_python_are_checked_too(small, tmp_path):
    before = snapshot(small)
    export = partial(config.export_config, small, tmp_path / "a.json")
    for options, message in [
        ({"granularity": "head"}, "granularity must be one of block, linear, all, got 'head'"),
        ({"file_format": "gguf"}, "file_format must be one of json, mlx, got 'gguf'"),
        (
            {"file_format": "mlx", "weight_quantizer": "row"},
            "weight_quantizer must be mlx in files for MLX, which hold bits of",
        ),
    ]:
        with pytest.raises(OptionError, match=re.escape(message)):
            export(**options)
    assert snapshot(small) == before
    assert not (tmp_path / "a.json").exists()


def test_an_input_that_is_always_zero_has_no_error_and_no_infinity(small, tmp_path):
    path = tmp_path / "a.zarr"
    shutil.copytree(small, path)
    group, row = zarr.open_group(path), 4
    layer = str(group["layer"][row])
    for name in ("value_min", "value_max", "value_mean", "value_std"):
        group[name][row] = 0
    for name in ("feature_min", "feature_max", "feature_mean_min", "feature_mean_max"):
        group[name][row] = np.where(np.isnan(group[name][row]), np.nan, 0)
    for name in ("image_min", "image_max", "image_mean", "image_std"):
        group[name][row] = 0
    counts = np.zeros_like(group["histogram"][row])
    counts[:, counts.shape[-1] // 2] = group["value_count"][row]
    group["histogram"][row] = counts
    config.export_config(path, tmp_path / "a.json")
    entry = read_json(tmp_path / "a.json")["layer_configs"][layer]
    own = {each.name: each for each in read(tmp_path / "a.json").layers}[layer]
    assert own.activation is None or (own.activation.scale, own.activation.zero_point) == (1, 0)
    assert [entry["clip_min"], entry["clip_max"]] == [0, 0]
    assert set(entry["calibration_stats"].values()) == {0}


def test_a_layer_without_any_finite_value_is_named(small, tmp_path):
    path = tmp_path / "a.zarr"
    shutil.copytree(small, path)
    group, row = zarr.open_group(path), 4
    group["value_count"][row] = 0
    group["histogram"][row] = 0
    for name in ("value_min", "value_max", "value_mean", "value_std"):
        group[name][row] = np.nan
    before = snapshot(path)
    with pytest.raises(ValueError, match=rf"no finite value.*{group['layer'][row]}"):
        config.export_config(path, tmp_path / "a.json")
    assert snapshot(path) == before
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("num_steps", [1, 2])
def test_samplings_too_short_for_three_phases_are_exported(tmp_path, loaded_once, num_steps):
    path, file = tmp_path / "a.zarr", tmp_path / "a.json"
    calibzarr.build(path, num_images=1, num_steps=num_steps)
    calibzarr.collect(path)
    config.export_config(path, file)
    content = read_json(file)
    parse(content)
    steps = [(phase["first_step"], phase["last_step"]) for phase in content["phases"].values()]
    assert [step for first, last in steps for step in range(first, last + 1)] == [*range(num_steps)]


@pytest.fixture(scope="module")
def sensitive(replayed, tmp_path_factory):
    """The same store with sensitivities that were made up."""
    path = tmp_path_factory.mktemp("sensitive") / "a.zarr"
    shutil.copytree(replayed.path, path)
    measure(path, images=3, probes=2, steps=[0, 1, 2])
    return path


@pytest.mark.parametrize("quantizers", [("tensor", "row"), ("token", "tensor"), ("token", "mlx")])
def test_what_the_file_rebuilds_is_what_was_recommended_and_predicted(
    sensitive, tmp_path, quantizers, tiny
):
    file = tmp_path / "a.json"
    names = dict(zip(("activation_quantizer", "weight_quantizer"), quantizers, strict=True))
    config.export_config(sensitive, file, weight_bits=5.5, activation_bits=5, **names)
    configuration, content = read(file), read_json(file)
    check_model(configuration, tiny.layers(), tiny.fingerprint, tiny.name)
    recommended = calibzarr.recommend(sensitive, weight_bits=5.5, activation_bits=5, **names)
    linear = recommended.isel(layer=recommended.role.values == "input")
    assert configuration.by_phase
    assert [layer.name for layer in configuration.layers] == linear.layer.values.tolist()
    for row, layer in enumerate(configuration.layers):
        own = linear.isel(layer=row)
        for phase, said in enumerate(layer.by_phase):
            bits, ends = int(own.phase_bits[phase]), own.isel(phase=phase)
            assert (16 if said is None else said.bits) == bits
            if said is not None and said.scale is not None:
                scale, zero_point = affine(ends.phase_clip_min, ends.phase_clip_max, bits)
                assert np.float32(said.scale) == (scale if scale > 0 else 1)
                assert said.zero_point == zero_point
        assert (16 if layer.weight is None else layer.weight.bits) == own.weight_bits
        assert ("" if layer.weight is None else layer.weight.scheme) == own.weight_scheme
    prediction = predict(measured.read(read_root(sensitive)), configuration)
    said = content["prediction"]
    assert said["output_sqnr_db"] == pytest.approx(prediction.output_sqnr_db)
    assert said["output_sqnr_db_by_step"] == pytest.approx(prediction.by_step.tolist())
    shares = [list(own.values()) for own in said["layers"].values()]
    assert np.sum(shares, axis=(0, 1)) == pytest.approx(1)
    assert (
        content["provenance"]["sensitivities"]
        == read_root(sensitive).attributes["sensitivity"]["stamp"]
    )

import json
import re
import shutil
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version

import numpy as np
import pytest
import zarr
from jsonschema import Draft202012Validator

import calibzarr
from calibzarr.advice import analysis, recommendation
from calibzarr.advice.choices import GRANULARITIES
from calibzarr.advice.options import Options
from calibzarr.errors import OptionError
from calibzarr.export import config, configuration
from calibzarr.storage.manifest import read_root
from tests.support.files import read_json
from tests.support.quantizing import measured
from tests.support.stores import shrunk, snapshot

PHASES = {"early": [0], "mid": [1, 2], "late": [3]}
CHOICES = (2, 4, 6, 8)
TARGETS = {"activation": 30.0, "weight": 20.0}
TOLERANCE = 0.1  # dB


@pytest.fixture(scope="module")
def exported(replayed, tmp_path_factory):
    """The default configuration of the embedded model, with advice in a store of its own."""
    directory = tmp_path_factory.mktemp("exported")
    path, file = directory / "a.zarr", directory / "deeper" / "config.json"
    shutil.copytree(replayed.path, path)
    result = config.export(path, file)
    return path, file, result


@pytest.fixture(scope="module")
def written(exported):
    return read_json(exported[1])


@pytest.fixture(scope="module")
def small(replayed, tmp_path_factory):
    return shrunk(replayed.path, tmp_path_factory.mktemp("small") / "a.zarr")


def decibels(values, clip_min, clip_max, bits, symmetric=False):
    """SQNR of quantizing the values themselves."""
    power = (values.astype(np.float64) ** 2).mean()
    return 10 * np.log10(power / measured(values, clip_min, clip_max, bits, symmetric))


def searched(values, bits, symmetric=False):
    """The clipping range of least error on the values themselves, by trying many thresholds."""
    low, high = float(values.min()), float(values.max())
    reach = max(-low, high)
    ends = [max(low, -reach), min(high, reach)]
    least = measured(values, *ends, bits, symmetric)
    for spacing, octaves in ((0.25, 5), (0.04, 0.25)):
        middle = max(-ends[0], ends[1])
        first = 0 if spacing == 0.25 else -octaves
        for exponent in np.arange(first, octaves, spacing):
            threshold = min(middle * 2**-exponent, reach)
            tried = [max(low, -threshold), min(high, threshold)]
            error = measured(values, *tried, bits, symmetric)
            if error < least:
                least, ends = error, tried
    return *ends, least


def fewest(reached, target, margin=2 * TOLERANCE):
    """Bits that may be the fewest to reach a target, in dB, when it is known so well."""
    return {
        next((bits for bits in CHOICES if reached[bits] >= wanted), CHOICES[-1])
        for wanted in (target - margin, target, target + margin)
    }


def in_percent(values, clip):
    """Least and greatest percentage of values below the clipping range's end, a bin's width off.

    The file's figures have nine digits.
    """
    width = abs(clip) / 64
    return [100 * np.mean(values < clip + side * width) + side * 1e-7 for side in (-1, 1)]


def assert_clipped_like_the_best(values, own, bits, tolerance=TOLERANCE):
    """Of least error within 3 %, and with the SQNR that it says."""
    assert values.min() - 1e-6 <= own["clip_min"] <= own["clip_max"] <= values.max() + 1e-6
    error = measured(values, own["clip_min"], own["clip_max"], bits)
    assert error <= 1.03 * searched(values, bits)[2]
    actual = decibels(values, own["clip_min"], own["clip_max"], bits)
    assert own["sqnr_db"] == pytest.approx(actual, abs=tolerance)


def assert_recomputed(entry, values, least_bits=2, least_by_phase=None):
    """Every number of an entry about activations, from the values of shape (image, step, ...).

    Args:
        entry: of the file.
        values: that entered the layer, or left the block.
        least_bits: what the layers that a block speaks for need.
        least_by_phase: the same by phase.
    """
    bits, statistics = entry["activation_bits"], entry["calibration_stats"]
    assert set(statistics) == {"min", "max", "mean", "std", "p01", "p99"}
    assert statistics["min"] == pytest.approx(values.min(), rel=1e-8)
    assert statistics["max"] == pytest.approx(values.max(), rel=1e-8)
    std = values.std(dtype=np.float64)
    assert statistics["mean"] == pytest.approx(values.mean(dtype=np.float64), abs=1e-6 * std)
    assert statistics["std"] == pytest.approx(std, rel=1e-6)
    tails = np.percentile(values, [1, 99])
    np.testing.assert_allclose([statistics["p01"], statistics["p99"]], tails, rtol=0.01, atol=2e-6)

    reached, worst_phase = {}, {}
    for choice in CHOICES:
        low, high, _ = searched(values, choice)
        by_phase = {
            name: decibels(values[:, steps], low, high, choice) for name, steps in PHASES.items()
        }
        worst_phase[choice] = min(by_phase, key=by_phase.get)
        reached[choice] = min(by_phase.values())
    assert bits in {max(own, least_bits) for own in fewest(reached, TARGETS["activation"])}
    assert_clipped_like_the_best(values, entry, bits)
    worst = min(
        decibels(values[:, steps], entry["clip_min"], entry["clip_max"], bits)
        for steps in PHASES.values()
    )
    assert entry["worst_sqnr_db"] == pytest.approx(worst, abs=TOLERANCE)

    low, high = entry["clip_percentile"]
    least, most = in_percent(values, entry["clip_min"])
    assert low == 0 if entry["clip_min"] <= values.min() else least <= low <= most
    least, most = in_percent(values, entry["clip_max"])
    assert high == 100 if entry["clip_max"] >= values.max() else least <= high <= most

    assert set(entry["phases"]) == set(PHASES)
    for name, steps in PHASES.items():
        own, inside = entry["phases"][name], values[:, steps]
        alone = {b: decibels(inside, *searched(inside, b)[:2], b) for b in CHOICES}
        least = (least_by_phase or {}).get(name, 2)
        allowed = {max(found, least) for found in fewest(alone, TARGETS["activation"])}
        assert own["activation_bits"] in allowed
        assert_clipped_like_the_best(inside, own, own["activation_bits"])

    pattern = r"(\d) bits reach ([\d.]+) dB(?:, (\d) bits ([\d.]+) dB)?, "
    pattern += r"(?:of|short of) 30 dB(?: wanted)? in (\w+), the worst phase"
    found = re.match(pattern, entry["reason"])
    assert int(found[1]) == bits
    assert float(found[2]) == pytest.approx(reached[bits], abs=2 * TOLERANCE)
    if found[3]:
        assert int(found[3]) == bits - 2
        loose = 2 * TOLERANCE if bits > 4 else 0.5
        assert float(found[4]) == pytest.approx(reached[bits - 2], abs=loose)
    at_worst = decibels(values[:, PHASES[found[5]]], entry["clip_min"], entry["clip_max"], bits)
    assert at_worst == pytest.approx(worst, abs=TOLERANCE)


def test_every_number_of_a_linear_layer_is_recomputed_from_raw_activations(written, replayed, tiny):
    layer = "mm_block_1.image.mlp.fc2"
    entry, values = written["layer_configs"][layer], replayed.values(layer)
    assert_recomputed(entry, values)
    weight = replayed.weights[layer]
    reached = {b: decibels(weight, *searched(weight, b, True)[:2], b, True) for b in CHOICES}
    bits = entry["weight_bits"]
    assert bits in fewest(reached, TARGETS["weight"])
    loose = 2 * TOLERANCE if bits > 2 else 0.5
    assert entry["weight_sqnr_db"] == pytest.approx(reached[bits], abs=loose)
    told = re.search(r"weights: (\d) bits reach ([\d.]+) dB", entry["reason"])
    assert int(told[1]) == bits
    assert float(told[2]) == pytest.approx(entry["weight_sqnr_db"], abs=0.051)
    module = dict(tiny.pipeline.mmdit.named_modules())[entry["module"]]
    np.testing.assert_array_equal(np.array(module.weight), weight)
    assert [entry[name] for name in ("role", "stream", "kind")] == ["input", "image", "mlp.fc2"]


def test_every_number_of_a_block_is_recomputed_from_raw_activations(written, replayed, tiny):
    block = "mm_block_1"
    entry, values = written["layer_configs"][block], replayed.values(block)
    linears = [
        own for name, own in written["layer_configs"].items() if name.startswith(f"{block}.")
    ]
    linears = [own for own in linears if own["role"] == "input"]
    assert_recomputed(
        entry,
        values,
        max(own["activation_bits"] for own in linears),
        {name: max(own["phases"][name]["activation_bits"] for own in linears) for name in PHASES},
    )
    assert entry["weight_bits"] == max(own["weight_bits"] for own in linears)
    assert entry["weight_sqnr_db"] is None
    assert f"the {len(linears)} linear layers that it speaks for" in entry["reason"]
    assert entry["module"] in dict(tiny.pipeline.mmdit.named_modules())
    assert [entry[name] for name in ("role", "stream", "kind")] == ["output", "image", "block"]


def read_like_an_old_reader(file):
    """Bits and clipping range by layer, from the keys that the old files have and no other."""
    content = json.loads(file.read_text())
    default = content["default_config"]
    assert set(default) == {"weight_bits", "activation_bits"}
    quantizers = {}
    for layer, own in content["layer_configs"].items():
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
        assert {weight_bits, activation_bits} <= set(CHOICES)
    return quantizers


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_old_readers_accept_it(small, tmp_path, granularity):
    file = tmp_path / "old.json"
    result = config.export(small, file, granularity=granularity, method="range")
    quantizers = read_like_an_old_reader(file)
    dataset = analysis.open_statistics(small)
    roles = {"block": ["output"], "linear": ["input"], "all": ["input", "output"]}[granularity]
    assert list(quantizers) == dataset.layer.values[dataset.role.isin(roles)].tolist()
    assert result.num_layers == len(quantizers)
    content = read_json(file)
    for layer, (_, _, ends) in quantizers.items():  # it clips where the old reader thinks
        entry = content["layer_configs"][layer]
        assert [entry["clip_min"], entry["clip_max"]] == list(ends)
    most = [max(own[kind] for own in quantizers.values()) for kind in (0, 1)]
    assert list(content["default_config"].values()) == most


def test_an_old_reader_accepts_the_default(exported, written):
    quantizers = read_like_an_old_reader(exported[1])
    assert len(quantizers) == exported[2].num_layers == len(written["layer_configs"])


def test_the_old_rule_is_that_of_raw_percentiles(replayed, tmp_path):
    config.export(replayed.path, tmp_path / "a.json", method="range")
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
        assert entry["activation_bits"] == entry["weight_bits"]
        assert entry["activation_bits"] in bits, layer
        assert tuple(entry["clip_percentile"]) in percentiles, layer
        statistics = entry["calibration_stats"]
        ends = ("p01", "p99") if entry["clip_percentile"] == [1, 99] else ("min", "max")
        assert [entry["clip_min"], entry["clip_max"]] == [statistics[end] for end in ends]
        ends = [entry["clip_min"], entry["clip_max"]]
        # Mostly zeros may be clipped to zeros alone.
        actual = decibels(values, *ends, entry["activation_bits"]) if any(ends) else 0
        assert entry["sqnr_db"] == pytest.approx(actual, abs=2 * TOLERANCE)
    assert clear > 0.8 * len(content["layer_configs"])


def test_it_says_where_it_is_from(exported, written):
    path, _, _ = exported
    manifest, provenance = read_root(path).attributes, written["provenance"]
    assert provenance["method"] == "sqnr"
    assert provenance["activation_target_db"] == TARGETS["activation"]
    assert provenance["weight_target_db"] == TARGETS["weight"]
    assert provenance["clip"] == "mse"
    for name in ("model", "model_fingerprint", "prompts_sha256", "num_steps"):
        assert provenance[name] == manifest[name]
    assert provenance["statistics"] == manifest["activations"]["stamp"]
    assert (provenance["num_images"], provenance["steps"]) == (5, [0, 1, 2, 3])
    assert provenance["libraries"]["calibzarr"] == version("calibzarr")
    date = datetime.fromisoformat(provenance["date"])
    assert timedelta(0) <= datetime.now(UTC) - date < timedelta(hours=1)


@pytest.mark.slow
def test_equal_statistics_give_equal_bytes_but_for_the_date(exported, tmp_path):
    path, file, _ = exported
    again = tmp_path / "again.json"
    config.export(path, again)
    date = re.compile(rb'"date": "[^"]*"')
    first, second = (date.sub(b'"date": ""', each.read_bytes()) for each in (file, again))
    assert first == second
    assert first != file.read_bytes()


def test_the_schema_is_one_and_accepts_what_is_written(written):
    Draft202012Validator.check_schema(configuration.schema())
    Draft202012Validator(configuration.schema()).validate(written)


LAYER = ("layer_configs", "mm_block_0.image.mlp.fc2")
BROKEN = [
    *[((name,), "remove") for name in ("default_config", "layer_configs", "provenance", "phases")],
    *[((*LAYER, name), "remove") for name in ("weight_bits", "clip_percentile", "clip_min")],
    *[((*LAYER, "calibration_stats", name), "remove") for name in ("min", "p99")],
    *[((*LAYER, "activation_bits"), value) for value in (1, 9, 4.5, "8", True, None)],
    *[((*LAYER, "clip_percentile"), value) for value in ([1], [0, 50, 100], [0, 101], 99, "all")],
    *[((*LAYER, "clip_max"), value) for value in (None, "1")],
    *[((*LAYER, "phases", "mid", "activation_bits"), value) for value in (0, None)],
    ((*LAYER, "role"), "both"),
    ((*LAYER, "reason"), None),
    ((*LAYER, "scale"), 1.0),
    ((*LAYER, "calibration_stats", "median"), 0.0),
    (("default_config", "bits"), 8),
    (("schema_version",), 2),
    (("provenance", "method"), "guess"),
    (("provenance", "steps"), [-1]),
    (("unknown",), {}),
]


@pytest.mark.parametrize(("place", "value"), BROKEN, ids=str)
def test_the_schema_refuses_broken_files(written, place, value):
    broken = {**written, "layer_configs": {LAYER[1]: written["layer_configs"][LAYER[1]]}}
    broken = deepcopy(broken)
    Draft202012Validator(configuration.schema()).validate(broken)
    *parents, last = place
    parent = broken
    for name in parents:
        parent = parent[name]
    if value == "remove":
        del parent[last]
    else:
        parent[last] = value
    errors = list(Draft202012Validator(configuration.schema()).iter_errors(broken))
    assert errors
    assert all(list(error.absolute_path)[: len(parents)] == parents for error in errors)


def test_options_of_python_are_checked_too(small, tmp_path):
    before = snapshot(small)
    export = partial(config.export, small, tmp_path / "a.json")
    for options, message in [
        ({"granularity": "head"}, "granularity must be one of block, linear, all, got 'head'"),
        ({"method": "guess"}, "method must be one of budget, range, sqnr, got 'guess'"),
        ({"clip": "none"}, "clip must be one of mse, lp, minmax, got 'none'"),
    ]:
        with pytest.raises(OptionError, match=re.escape(message)):
            export(**options)
    assert snapshot(small) == before
    assert not (tmp_path / "a.json").exists()


def test_phases_that_were_not_collected_are_left_out(replayed, tmp_path):
    statistics = analysis.open_statistics(replayed.path).isel(step=[1, 2], layer=slice(5, 21))
    recommended = recommendation.of_statistics(statistics, Options())
    content = configuration.configuration(recommended)
    Draft202012Validator(configuration.schema()).validate(content)
    assert list(content["phases"]["early"]) == ["first_step", "last_step"]
    assert "sigma_max" in content["phases"]["mid"]
    assert all(list(own["phases"]) == ["mid"] for own in content["layer_configs"].values())


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
    config.export(path, tmp_path / "a.json")
    entry = read_json(tmp_path / "a.json")["layer_configs"][layer]
    Draft202012Validator(configuration.schema()).validate(read_json(tmp_path / "a.json"))
    assert entry["activation_bits"] == 2
    assert entry["sqnr_db"] is None
    assert [entry["clip_min"], entry["clip_max"]] == [0, 0]
    assert set(entry["calibration_stats"].values()) == {0}


def test_a_layer_without_any_finite_value_is_named(small, tmp_path):
    path = tmp_path / "a.zarr"
    shutil.copytree(small, path)
    group, row = zarr.open_group(path), 4
    for steps in ([1, 2], [0, 1, 2, 3]):  # a phase of them, and all
        for step in steps:
            group["value_count"][row, step] = 0
            group["histogram"][row, step] = 0
            for name in ("value_min", "value_max", "value_mean", "value_std"):
                group[name][row, step] = np.nan
        before = snapshot(path)
        with pytest.raises(ValueError, match=rf"no finite value.*{group['layer'][row]}"):
            config.export(path, tmp_path / "a.json")
        assert snapshot(path) == before
        assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("num_steps", [1, 2])
def test_samplings_too_short_for_three_phases_are_exported(tmp_path, loaded_once, num_steps):
    path, file = tmp_path / "a.zarr", tmp_path / "a.json"
    calibzarr.build(path, num_images=1, num_steps=num_steps)
    calibzarr.collect(path)
    config.export(path, file)
    content = read_json(file)
    Draft202012Validator(configuration.schema()).validate(content)
    steps = [(phase["first_step"], phase["last_step"]) for phase in content["phases"].values()]
    assert [step for first, last in steps for step in range(first, last + 1)] == [
        *range(num_steps + 1)
    ]
    names = set(content["phases"])
    assert all(set(layer["phases"]) == names for layer in content["layer_configs"].values())

import json
import re
import shutil

import click
import numpy as np
import pytest
import xarray as xr

from calibzarr import cli
from calibzarr.advice import analysis, choices, recommendation, summary
from calibzarr.advice.options import Options
from tests.support.files import read_json
from tests.support.stores import shrunk, snapshot

COMMANDS = {name: cli.cli.commands[name] for name in ("analyze", "export-config")}


@pytest.fixture(scope="module")
def small(replayed, tmp_path_factory):
    return shrunk(replayed.path, tmp_path_factory.mktemp("small") / "a.zarr")


@pytest.fixture
def place(small, replayed, tmp_path, monkeypatch):
    """A directory to work in: a store, one without statistics, a file and a directory."""
    shutil.copytree(small, tmp_path / "a.zarr")
    shutil.copytree(replayed.bare, tmp_path / "bare.zarr")
    (tmp_path / "old.json").write_text("old")
    (tmp_path / "directory" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table_of(out):
    """Lines of the table, and those after it."""
    lines = out.splitlines()
    end = next(number for number, line in enumerate(lines) if line.startswith("bits of activ"))
    return lines[:end], lines[end:]


def test_analyze_prints_every_layer_then_what_it_comes_to(run, replayed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    before = snapshot(replayed.path)
    code, out, err = run("analyze", replayed.path)
    assert (code, err) == (0, "")
    assert snapshot(replayed.path) == before
    table, rest = table_of(out)
    analyzed = analysis.analyze(replayed.path)
    recommended = recommendation.recommend(replayed.path)
    assert [line.split()[0] for line in table[1:]] == analyzed.layer.values.tolist()
    headings = re.split(r"\s{2,}", table[0].strip())
    assert headings == [
        *("layer", "range", "p01-p99", "outliers", "sigma", "asymmetry"),
        *("8 bits dB", "6 bits dB", "4 bits dB", "bits", "weights"),
    ]
    for line in table[1:]:
        name, *cells = line.split()
        own, advice = analyzed.sel(layer=name), recommended.sel(layer=name)
        assert float(cells[0]) == pytest.approx(float(own.value_range), rel=5.1e-3)
        assert int(cells[-2]), int(cells[-1]) == (advice.activation_bits, advice.weight_bits)
        for place, bits in ((-5, 8), (-4, 6), (-3, 4)):
            assert float(cells[place]) == pytest.approx(
                float(own.sqnr_db.sel(bits=bits)), abs=0.051
            )
    for sentence in summary.sentences(summary.describe(analyzed, recommended)):
        assert sentence in rest
    assert f"calibzarr export-config {replayed.path} a.json" in rest[-1]


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_the_table_keeps_to_the_width_of_the_terminal(run, place, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = run("analyze", "a.zarr", "--sort", "asymmetry")
    table, _ = table_of(out)
    assert max(map(len, table)) <= columns
    layers = analysis.open_statistics(place / "a.zarr").layer.values
    assert len(table) == len(layers) + 1
    assert "asymmetry" in table[0]  # what it is sorted by
    assert "…" not in table[0]
    cells = [line.split()[1:] for line in table[1:]]
    [float(cell) for own in cells for cell in own]  # none of them is cut
    if columns >= 60:
        assert {line.split()[0] for line in table[1:]} == set(layers)
        assert "…" not in "".join(table)


def test_json_holds_all_layers_and_what_they_come_to(run, replayed):
    code, out, err = run("analyze", replayed.path, "--json")
    assert (code, err) == (0, "")
    content = json.loads(out, parse_constant=lambda text: pytest.fail(f"holds {text}"))
    dataset = analysis.open_statistics(replayed.path)
    assert [row["layer"] for row in content["layers"]] == dataset.layer.values.tolist()
    for row, low, high in zip(
        content["layers"],
        dataset.value_min.values.min(axis=1),
        dataset.value_max.values.max(axis=1),
        strict=True,
    ):
        assert row["value_range"] == pytest.approx(high - low, rel=1e-6)
        assert {"activation_bits", "weight_bits", "sqnr_db_8", "sqnr_db_4", "kind"} <= set(row)
    assert {"bits", "sensitive", "compact", "smoothing", "shift", "images", "not_covered"} <= set(
        content
    )


def test_top_and_filters_choose_the_rows_and_nothing_else(run, place):
    whole = json.loads(run("analyze", "a.zarr", "--json")[1])
    options = ["--stream", "image", "--sort", "range", "--top", 3, "--json"]
    part = json.loads(run("analyze", "a.zarr", *options)[1])
    image = [row for row in whole["layers"] if row["stream"] == "image"]
    image.sort(key=lambda row: -row["value_range"])
    assert part["layers"] == image[:3]
    assert {**part, "layers": []} == {**whole, "layers": []}
    code, out, _ = run("analyze", "a.zarr", "--kind", "mlp.fc2", "--top", 2)
    names = [row["layer"] for row in whole["layers"] if row["kind"] == "mlp.fc2"][:2]
    assert code == 0
    assert [line.split()[0] for line in table_of(out)[0][1:]] == names


def test_a_higher_target_takes_more_bits(run, place):
    bits = []
    for target in (15, 35):
        options = ["--activation-target", target, "--weight-target", target, "--json"]
        rows = json.loads(run("analyze", "a.zarr", *options)[1])["layers"]
        bits.append([[row["activation_bits"], row["weight_bits"]] for row in rows])
    assert (np.array(bits[0]) <= bits[1]).all()
    assert (np.mean(bits[0], axis=0) < np.mean(bits[1], axis=0)).all()


def test_quiet_leaves_results_alone(run, place):
    _, loud, _ = run("analyze", "a.zarr", "--top", 1)
    for arguments in (["analyze", "-q", "a.zarr"], ["-q", "analyze", "a.zarr"]):
        code, out, err = run(*arguments, "--top", 1)
        assert (code, err) == (0, "")
        assert loud.startswith(out)
        assert "write it down with" in loud.removeprefix(out)
    code, out, err = run("export-config", "a.zarr", "new.json", "-q", "--activation-target", 45)
    assert (code, err) == (0, "")
    assert "new.json: 21 layers" in out


def test_a_store_is_found_from_within(run, place, monkeypatch):
    monkeypatch.chdir(place / "a.zarr")
    code, out, err = run("analyze", ".", "--top", 1)
    assert (code, err) == (0, "")
    assert "export-config . a.json" in out
    assert run("export-config", ".", "../new.json")[0] == 0
    assert read_json(place / "new.json")["features"]["store"] == "a.zarr"


def test_export_config_says_what_it_wrote_and_where_advice_is(run, place):
    code, out, err = run("export-config", "a.zarr", "new.json", "--activation-target", 45)
    assert code == 0
    content = read_json(place / "new.json")
    linear = [own for own in content["layer_configs"].values() if own["role"] == "input"]
    assert f"new.json: {len(content['layer_configs'])} layers, activations: " in out
    for kind in ("activation", "weight"):
        bits = [own[f"{kind}_bits"] for own in linear]
        for choice in set(bits):
            assert f"{bits.count(choice)} with {choice} bits" in out
    assert "xarray.open_zarr('a.zarr').recommended_shift" in out
    assert "recommended_shift" in xr.open_zarr("a.zarr")
    short = [own for own in linear if own["worst_sqnr_db"] is not None]
    short = [own for own in short if own["worst_sqnr_db"] < 45]
    assert short
    assert f"warning: activations of {len(short)} layers do not reach 45 dB with 8 bits" in err
    before = snapshot(place / "a.zarr")
    code, out, err = run("export-config", "a.zarr", "m.json", "--format", "mlx", "--no-features")
    assert code == 0
    assert "polynomial" not in err  # of no concern to the weights
    assert "mlx.nn.quantize" in out
    assert len(read_json(place / "m.json")) == len(linear)
    assert snapshot(place / "a.zarr") == before


def test_force_overwrites_and_method_follows_from_mean_bits(run, place):
    arguments = ["export-config", "a.zarr", "old.json", "--no-features"]
    assert run(*arguments)[0] == 1
    assert (place / "old.json").read_text() == "old"
    assert run(*arguments, "--force", "--mean-bits", 5)[0] == 0
    provenance = read_json(place / "old.json")["provenance"]
    assert (provenance["method"], provenance["mean_bits"]) == ("budget", 5)
    assert run(*arguments, "--force", "--granularity", "block", "--clip", "percentile")[0] == 0
    content = read_json(place / "old.json")
    assert content["provenance"]["clip"] == "percentile"
    assert {own["role"] for own in content["layer_configs"].values()} == {"output"}


@pytest.mark.parametrize("command", ["analyze a.zarr", "export-config a.zarr new.json"])
@pytest.mark.parametrize("what", ["activation", "weight"])
def test_a_target_out_of_reach_is_told_with_the_best_reachable(run, place, command, what):
    option = f"--{what}-target"
    before = snapshot(place)
    code, out, err = run(*command.split(), option, 200)
    assert (code, out, err.count("\n")) == (2, "", 1)
    told = re.search(
        rf"no layer reaches --{what}-target 200 dB with up to 8 bits; the .* is (.*) dB", err
    )
    best = float(told[1])
    assert run(*command.split(), option, best + 0.06)[0] == 2
    assert snapshot(place) == before
    assert run(*command.split(), option, best - 0.06)[0] == 0


EXPORT = "export-config a.zarr new.json"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("analyze bare.zarr", 1, "no statistics yet; make them with: calibzarr collect bare.zarr"),
        ("analyze missing.zarr", 1, "there is no store at missing.zarr"),
        ("analyze directory", 1, "not a calibzarr store"),
        ("analyze old.json", 1, "old.json is a file"),
        ("analyze", 2, "Missing argument 'STORE'"),
        ("analyze a.zarr --stream imag", 2, "no stream 'imag'; did you mean image?"),
        ("analyze a.zarr --kind mlp.fc3", 2, "did you mean mlp.fc2 or mlp.fc1?"),
        ("analyze a.zarr --sort outlier", 2, "no sort 'outlier'; did you mean outliers?"),
        ("analyze a.zarr --json --sort worst", 2, "There are: model, range,"),
        ("analyze a.zarr --top 0", 2, "0 is not in the range x>=1"),
        ("analyze a.zarr --activation-target nan", 2, "nan"),
        ("analyze a.zarr --activation-target x", 2, "'x' is not a valid float"),
        ("export-config bare.zarr new.json", 1, "make them with: calibzarr collect bare.zarr"),
        ("export-config missing.zarr new.json", 1, "there is no store at missing.zarr"),
        ("export-config a.zarr", 2, "Missing argument 'FILE'"),
        ("export-config a.zarr old.json", 1, "old.json exists already; overwrite it with --force"),
        ("export-config a.zarr old.json --format mlx", 1, "overwrite it with --force"),
        ("export-config a.zarr directory", 1, "directory is a directory; name a file in it"),
        (
            "export-config a.zarr directory --force",
            1,
            "directory is a directory; name a file in it",
        ),
        ("export-config a.zarr old.json/new.json", 1, "old.json is not a directory"),
        ("export-config a.zarr a.zarr/zarr.json --force", 1, "is within the store"),
        ("export-config a.zarr ./a.zarr/latents/new.json", 1, "is within the store"),
        (f"{EXPORT} --groups 5", 2, "groups must be from 1 to the number of steps, 4, got 5"),
        (f"{EXPORT} --groups 0", 2, "0 is not in the range x>=1"),
        (f"{EXPORT} --mean-bits 1.5", 2, "--mean-bits must be 2 or more"),
        (f"{EXPORT} --mean-bits nan", 2, "--mean-bits must be"),
        (f"{EXPORT} --mean-bits inf", 2, "--mean-bits must be"),
        (f"{EXPORT} --method range --mean-bits 6", 2, "give both or neither"),
        (f"{EXPORT} --method budget", 2, "give both or neither"),
        (f"{EXPORT} --method sqrn", 2, "'sqrn' is not one of"),
        (f"{EXPORT} --clip max", 2, "'max' is not one of"),
        (f"{EXPORT} --granularity layer", 2, "'layer' is not one of"),
        (f"{EXPORT} --format toml", 2, "'toml' is not one of"),
        (f"{EXPORT} --tolerance -1", 2, "-1.0 is not in the range"),
        (f"{EXPORT} --tolerance inf", 2, "--tolerance must be"),
        (f"{EXPORT} --tolerance nan", 2, "--tolerance must be"),
        (f"{EXPORT} --activation-target=-inf", 2, "--activation-target must be"),
        (f"{EXPORT} --weight-target=-inf", 2, "--weight-target must be"),
        (f"{EXPORT} --smoothquant-alpha 2", 2, "2.0 is not in the range"),
        (f"{EXPORT} --smoothquant-alpha nan", 2, "alpha must be in [0, 1]"),
    ],
)
def test_bad_input_gives_one_line_and_changes_nothing(run, place, arguments, code, message):
    before, entries = snapshot(place), sorted(place.rglob("*"))
    actual, out, err = run(*arguments.split())
    assert (actual, out) == (code, "")
    assert message in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert snapshot(place) == before
    assert sorted(place.rglob("*")) == entries


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_of_every_option(run, name):
    code, out, err = run(name, "--help")
    assert (code, err) == (0, "")
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help
            assert all(option in out for option in parameter.opts)
    assert "dB" in out


def test_options_offer_what_the_library_knows():
    options = {own.name: own for own in COMMANDS["export-config"].params}
    assert tuple(options["method"].type.choices) == choices.methods()
    assert tuple(options["clip"].type.choices) == choices.CLIPS
    assert tuple(options["granularity"].type.choices) == choices.GRANULARITIES
    defaults = Options()
    for name in ("activation_target", "weight_target", "clip", "tolerance"):
        assert options[name].default == getattr(defaults, name)
    for own in COMMANDS["analyze"].params:
        if own.name.endswith("_target"):
            assert own.default == getattr(defaults, own.name)
        if own.name == "sort":
            assert all(sort in own.help for sort in choices.SORTS)

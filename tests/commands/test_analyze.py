import csv
import json
import re
import shutil

import pytest
from rich.console import Console

from calibzarr import cli
from calibzarr.advice import analysis, choices, recommendation, summary
from calibzarr.advice.options import Options
from calibzarr.storage.manifest import read_root
from calibzarr.storage.reading import open_statistics
from tests.support.commands import (
    assert_help_is_complete,
    assert_refused,
)
from tests.support.measuring import measure
from tests.support.stores import snapshot

HEADINGS = [
    *("layer", "bits", "weights", "range", "p01-p99", "outliers", "sigma", "asymmetry"),
    *("8 bits dB", "6 bits dB", "4 bits dB"),
]
COMMAND = cli.cli.commands["analyze"]


def table_of(out):
    """Lines of the table, and those after it."""
    lines = out.splitlines()
    after = ("bits of activ", "of these ")
    end = next(number for number, line in enumerate(lines) if line.startswith(after))
    return lines[:end], lines[end:]


@pytest.mark.slow
def test_analyze_prints_every_layer_then_what_it_comes_to(run, replayed):
    before = snapshot(replayed.path)
    code, out, err = run("analyze", replayed.path)
    assert (code, err) == (0, "")
    assert snapshot(replayed.path) == before
    table, rest = table_of(out)
    root = read_root(replayed.path)
    analyzed = analysis.of_statistics(open_statistics(root))
    recommended = recommendation.of_store(root, Options())
    assert [line.split()[0] for line in table[1:]] == analyzed.layer.values.tolist()
    headings = re.split(r"\s{2,}", table[0].strip())
    assert headings == HEADINGS
    for line in table[1:]:
        name, *cells = line.split()
        own, advice = analyzed.sel(layer=name), recommended.sel(layer=name)
        assert float(cells[2]) == pytest.approx(float(own.value_range), rel=5.1e-3)
        bits = (advice.activation_bits, advice.weight_bits)
        assert (int(cells[0]), int(cells[1])) == bits
        for place, bits in ((-3, 8), (-2, 6), (-1, 4)):
            assert float(cells[place]) == pytest.approx(
                float(own.sqnr_db.sel(bits=bits)), abs=0.051
            )
    for sentence in summary.sentences(summary.describe(analyzed, recommended)):
        assert sentence in rest
    assert f"calibzarr export-config {replayed.path} a.json" in rest[-1]


@pytest.mark.slow
def test_with_sensitivities_it_says_what_bits_do_to_the_output(run, replayed, tmp_path):
    path = shutil.copytree(replayed.path, tmp_path / "a.zarr")
    measure(path, images=2, probes=2, steps=[0, 1, 2])
    content = json.loads(run("analyze", path, "--json")[1])
    code, out, err = run("analyze", path)
    assert (code, err) == (0, "")
    lines = [line.split() for line in table_of(out)[0]]
    assert {"A4", "W4", "A8", "gain"} <= set(lines[0])
    rows = {row["layer"]: row for row in content["layers"]}
    for name, *cells in lines[1 : len(rows) + 1]:
        assert {"activation_output_db_4", "weight_output_db_8", "reason"} <= set(rows[name])
        if rows[name]["weight_output_db_4"] is not None:
            assert f"{rows[name]['weight_output_db_4']:.1f}" in cells
            by_phase = [n for key, n in rows[name].items() if key.startswith("phase_bits_")]
            assert "/".join(map(str, by_phase)) in cells
    told = lines[len(rows) + 3 :]
    assert [row[:2] for row in told] == [
        [what, bits] for what, of_bits in content["by_bits"].items() for bits in of_bits
    ]
    for what, bits, *figures in told:
        found = content["by_bits"][what][bits]
        expected = (found[name]["output_sqnr_db"] for name in ("uniform", "budget"))
        assert [float(figure) for figure in figures[:2]] == pytest.approx([*expected], abs=0.051)


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_the_table_keeps_to_the_width_of_the_terminal(run, place, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(Console, "is_terminal", property(lambda self: not self.stderr))
    _, out, _ = run("analyze", "a.zarr", "--sort", "asymmetry")
    table, _ = table_of(re.sub(r"\x1b\[[\d;]*m", "", out))
    layers = analysis.open_statistics(place / "a.zarr").layer.values
    assert max(map(len, table[: len(layers) + 1])) <= columns
    assert "asymmetry" in table[0]  # what it is sorted by
    assert "\u2026" not in table[0]
    cells = [line.split()[1:] for line in table[1 : len(layers) + 1]]
    [float(cell) for own in cells for cell in own]  # none of them is cut
    absent = [name for name in HEADINGS[1:] if name not in table[0]]
    assert bool(absent) == (len(table) > len(layers) + 1)
    if absent:  # what there is no room for is named
        assert all(name in table[-1] for name in absent)
        assert table[-1].endswith("a pipe and --csv FILE have all")
    if columns >= 60:
        assert {line.split()[0] for line in table[1 : len(layers) + 1]} == set(layers)
    else:
        assert "the ends of names" in table[-1]


@pytest.mark.parametrize("columns", [20, 300])
def test_a_pipe_and_a_file_have_all_columns(run, place, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = run("analyze", "a.zarr", "--csv", "layers.csv")
    table, rest = table_of(out)
    assert re.split(r"\s{2,}", table[0].strip()) == HEADINGS
    read = list(csv.DictReader((place / "layers.csv").read_text().splitlines()))
    assert [line.split()[0] for line in table[1:]] == [row["layer"] for row in read]
    assert f"layers.csv: {len(read)} layers" in rest
    code, _, err = run("analyze", "a.zarr", "--csv", "layers.csv")
    assert (code, "layers.csv exists already; overwrite it with --force" in err) == (1, True)


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
    assert {"bits", "recommended", "by_bits", "features", "images", "not_covered"} <= set(content)
    assert (content["schema_version"], content["store"]) == (1, str(replayed.path))
    assert content["targets"] == {"weight_bits": 4, "activation_bits": 8}
    assert content["units"]["sqnr_db_4"] == "dB"


@pytest.mark.slow
def test_top_and_filters_choose_the_rows_and_nothing_else(run, place):
    whole = json.loads(run("analyze", "a.zarr", "--json")[1])
    options = ["--stream", "image", "--sort", "range", "--top", 3, "--json"]
    part = json.loads(run("analyze", "a.zarr", *options)[1])
    image = [row for row in whole["layers"] if row["stream"] == "image"]
    image.sort(key=lambda row: -row["value_range"])
    assert part["layers"] == image[:3]
    assert part["shown"] == {"layers": 3, "of": len(whole["layers"])}
    linear = [row for row in image[:3] if row["role"] == "input"]
    assert sum(part["bits"]["weights"].values()) == len(linear)
    assert set(part["features"]) <= {row["layer"] for row in linear}
    for name in ("schema_version", "store", "targets", "units", "recommended", "by_bits"):
        assert part[name] == whole[name]
    code, out, _ = run("analyze", "a.zarr", "--kind", "mlp.fc2", "--top", 2)
    names = [row["layer"] for row in whole["layers"] if row["kind"] == "mlp.fc2"][:2]
    assert code == 0
    assert [line.split()[0] for line in table_of(out)[0][1:]] == names


@pytest.mark.slow
def test_quiet_leaves_results_alone(run, place):
    _, loud, _ = run("analyze", "a.zarr", "--top", 1)
    for arguments in (["analyze", "-q", "a.zarr"], ["-q", "analyze", "a.zarr"]):
        code, out, err = run(*arguments, "--top", 1)
        assert (code, err) == (0, "")
        assert loud.startswith(out)
        assert "write it down with" in loud.removeprefix(out)


def test_a_store_is_found_from_within(run, place, monkeypatch):
    monkeypatch.chdir(place / "a.zarr")
    code, out, err = run("analyze", ".", "--top", 1)
    assert (code, err) == (0, "")
    assert "export-config . a.json" in out


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
    ],
)
def test_bad_input_gives_one_line_and_changes_nothing(run, place, arguments, code, message):
    assert_refused(run, place, arguments, code, message)


def test_help_tells_of_every_option(run):
    assert_help_is_complete(run, COMMAND)


def test_options_offer_what_the_library_knows():
    (option,) = (option for option in COMMAND.params if option.name == "sort")
    assert all(sort in option.help for sort in choices.SORTS)

import re
import shutil

import numpy as np
import pytest
import zarr

from calibzarr import cli
from calibzarr.advice import choices
from calibzarr.advice.options import Options
from tests.support.commands import (
    assert_help_is_complete,
    assert_refused,
)
from tests.support.files import read_json
from tests.support.full_disk import fill
from tests.support.measuring import measure
from tests.support.stores import snapshot

COMMAND = cli.cli.commands["export-config"]
EXPORT = "export-config a.zarr new.json"


def test_it_says_what_it_wrote_and_what_was_reached(run, place):
    code, out, err = run("export-config", "a.zarr", "new.json", "--weight-bits", 5)
    assert code == 0
    content = read_json(place / "new.json")
    linear = [own for own in content["layer_configs"].values() if own["role"] == "input"]
    assert f"new.json: {len(content['layer_configs'])} layers, activations: " in out
    for kind in ("activation", "weight"):
        bits = [own[f"{kind}_bits"] for own in linear]
        for choice in set(bits) - {16}:
            assert f"{bits.count(choice)} with {choice} bits" in out
    reached = re.search(r"mean: ([\d.]+) bits of weights, ([\d.]+) bits of activations; ", out)
    assert float(reached[1]) == pytest.approx(5, abs=0.3)
    assert float(reached[1]) <= 5
    assert 7.5 < float(reached[2]) <= 8
    assert "predicted" not in out
    assert "calibzarr sensitivity a.zarr" in err
    before = snapshot(place / "a.zarr")
    code, out, err = run("export-config", "a.zarr", "m.json", "--format", "mlx")
    assert code == 0
    assert "mlx.nn.quantize" in out
    by_path = [own for own in read_json(place / "m.json").values() if isinstance(own, dict)]
    assert len(by_path) == len(linear)
    assert snapshot(place / "a.zarr") == before


def test_what_is_predicted_is_told(run, replayed, place):
    shutil.copytree(replayed.path, place / "b.zarr")
    measure(place / "b.zarr")
    code, out, err = run("export-config", "b.zarr", "new.json", "--static")
    assert (code, err) == (0, "")
    prediction = read_json(place / "new.json")["prediction"]
    assert f"predicted: output SQNR {prediction['output_sqnr_db']:.1f} dB" in out
    assert f"equal cost: {prediction['gain_db']:+.1f} dB of the output" in out
    assert f"{prediction['weight_bytes'] / 2**20:.2f} MiB of weights" in out
    levers = [line for line in out.splitlines() if line.startswith("--")]
    names = [line.partition(":")[0] for line in levers]
    assert names == ["--weight-bits 5", "--weight-bits 3", "--activation-bits 7"]
    assert re.search(r": output SQNR \+[\d.]+ dB, \+[\d.]+ bits per weight, ", levers[0])


def test_force_overwrites_and_the_old_rule_is_warned_of(run, place):
    arguments = ["export-config", "a.zarr", "old.json"]
    assert run(*arguments)[0] == 1
    assert (place / "old.json").read_text() == "old"
    assert run(*arguments, "--force", "--weight-bits", 5)[0] == 0
    provenance = read_json(place / "old.json")["provenance"]
    assert (provenance["method"], provenance["weight_bits"]) == ("budget", 5)
    code, _, err = run(*arguments, "--force", "--granularity", "block", "--method", "range")
    assert code == 0
    assert "warning: the old rule of ranges loses the picture" in err
    content = read_json(place / "old.json")
    assert {own["role"] for own in content["layer_configs"].values()} == {"output"}


def test_quiet_leaves_the_result_alone(run, place):
    code, out, err = run("export-config", "a.zarr", "new.json", "-q")
    assert (code, err) == (0, "")
    assert "new.json: 21 layers" in out


def test_a_store_is_found_from_within(run, place, monkeypatch):
    monkeypatch.chdir(place / "a.zarr")
    assert run("export-config", ".", "../new.json")[0] == 0
    assert read_json(place / "new.json")["provenance"]["model"] == "tiny"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
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
        (f"{EXPORT} --weight-bits 1.5", 2, "--weight-bits must be from 2."),
        (f"{EXPORT} --activation-bits 8.5", 2, "--activation-bits must be from 2 to 8,"),
        (f"{EXPORT} --weight-bits nan", 2, "--weight-bits must be a finite number"),
        (f"{EXPORT} --output-db=-inf", 2, "--output-db must be a finite number"),
        (f"{EXPORT} --method range --weight-bits 6", 2, "--weight-bits is nothing to the method"),
        (f"{EXPORT} --method uniform --weight-bits 4.5", 2, "must be one of 2, 3, 4, 5, 6, 7, 8"),
        (f"{EXPORT} --method target", 2, "the method target needs --output-db; give it"),
        (f"{EXPORT} --method target --output-db 9", 1, "calibzarr sensitivity STORE"),
        (f"{EXPORT} --by-phase", 2, "--by-phase needs sensitivities with a measured call"),
        (f"{EXPORT} --keep mlp.fc3", 2, "--keep 'mlp.fc3' matches no linear layer; give"),
        (f"{EXPORT} --format mlx --weight-quantizer row", 2, "--weight-quantizer must be mlx"),
        (f"{EXPORT} --format mlx --granularity block", 2, "--granularity is nothing in files for"),
        (f"{EXPORT} --format mlx --static", 2, "--static is nothing in files for MLX"),
        (f"{EXPORT} --format mlx --activation-quantizer token", 2, "of weights alone; got token"),
        (f"{EXPORT} --method sqrn", 2, "'sqrn' is not one of"),
        (f"{EXPORT} --clip max", 2, "'max' is not one of"),
        (f"{EXPORT} --granularity layer", 2, "'layer' is not one of"),
        (f"{EXPORT} --format toml", 2, "'toml' is not one of"),
        (f"{EXPORT} --clip kl", 2, "'kl' is not one of"),
    ],
)
def test_bad_input_gives_one_line_and_changes_nothing(run, place, arguments, code, message):
    assert_refused(run, place, arguments, code, message)


def test_help_tells_of_every_option(run):
    assert_help_is_complete(run, COMMAND)


def test_options_offer_what_the_library_knows():
    options = {option.name: option for option in COMMAND.params}
    assert tuple(options["method"].type.choices) == choices.methods()
    assert tuple(options["clip"].type.choices) == choices.CLIPS
    assert tuple(options["granularity"].type.choices) == choices.GRANULARITIES
    assert tuple(options["weight_quantizer"].type.choices) == choices.WEIGHT_QUANTIZERS
    defaults = Options()
    for name in ("method", "activation_quantizer"):
        assert options[name].default == getattr(defaults, name)


@pytest.mark.parametrize("more", ["", " --format mlx"])
def test_a_full_disk_is_told_of_with_what_stays(run, place, monkeypatch, more):
    fill(monkeypatch)
    message = "the disk is full: new.json is not written; make room, then give the same command"
    assert_refused(run, place, EXPORT + more, 1, message)


@pytest.mark.parametrize("command", [EXPORT, "analyze a.zarr", "analyze a.zarr --json"])
@pytest.mark.parametrize("wrong", [lambda sigma: sigma[::-1], lambda sigma: sigma * np.nan])
def test_noise_levels_are_checked_before_they_are_used(run, place, command, wrong):
    sigma = zarr.open_array(place / "a.zarr" / "sigma")
    sigma[:] = wrong(sigma[:])
    assert_refused(run, place, command, 1, "a.zarr is damaged: its sigma does not fall to 0")

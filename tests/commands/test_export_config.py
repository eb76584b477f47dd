import pytest

from calibzarr import cli
from calibzarr.advice import choices
from calibzarr.advice.options import Options
from tests.support.commands import (
    assert_best_target_is_told,
    assert_help_is_complete,
    assert_refused,
)
from tests.support.files import read_json
from tests.support.stores import snapshot

COMMAND = cli.cli.commands["export-config"]
EXPORT = "export-config a.zarr new.json"


def test_it_says_what_it_wrote_and_where_advice_is(run, place):
    code, out, err = run("export-config", "a.zarr", "new.json", "--activation-target", 45)
    assert code == 0
    content = read_json(place / "new.json")
    linear = [own for own in content["layer_configs"].values() if own["role"] == "input"]
    assert f"new.json: {len(content['layer_configs'])} layers, activations: " in out
    for kind in ("activation", "weight"):
        bits = [own[f"{kind}_bits"] for own in linear]
        for choice in set(bits):
            assert f"{bits.count(choice)} with {choice} bits" in out
    short = [own for own in linear if own["worst_sqnr_db"] is not None]
    short = [own for own in short if own["worst_sqnr_db"] < 45]
    assert short
    assert f"warning: activations of {len(short)} layers do not reach 45 dB with 8 bits" in err
    before = snapshot(place / "a.zarr")
    code, out, err = run("export-config", "a.zarr", "m.json", "--format", "mlx")
    assert code == 0
    assert "mlx.nn.quantize" in out
    assert len(read_json(place / "m.json")) == len(linear)
    assert snapshot(place / "a.zarr") == before


def test_force_overwrites_and_method_follows_from_mean_bits(run, place):
    arguments = ["export-config", "a.zarr", "old.json"]
    assert run(*arguments)[0] == 1
    assert (place / "old.json").read_text() == "old"
    assert run(*arguments, "--force", "--mean-bits", 5)[0] == 0
    provenance = read_json(place / "old.json")["provenance"]
    assert (provenance["method"], provenance["mean_bits"]) == ("budget", 5)
    assert run(*arguments, "--force", "--granularity", "block", "--clip", "minmax")[0] == 0
    content = read_json(place / "old.json")
    assert content["provenance"]["clip"] == "minmax"
    assert {own["role"] for own in content["layer_configs"].values()} == {"output"}


def test_quiet_leaves_the_result_alone(run, place):
    code, out, err = run("export-config", "a.zarr", "new.json", "-q", "--activation-target", 45)
    assert (code, err) == (0, "")
    assert "new.json: 21 layers" in out


def test_a_store_is_found_from_within(run, place, monkeypatch):
    monkeypatch.chdir(place / "a.zarr")
    assert run("export-config", ".", "../new.json")[0] == 0
    assert read_json(place / "new.json")["provenance"]["model"] == "tiny"


@pytest.mark.parametrize("what", ["activation", "weight"])
def test_a_target_out_of_reach_is_told_with_the_best_reachable(run, place, what):
    assert_best_target_is_told(run, place, EXPORT, what)


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
        (f"{EXPORT} --mean-bits 1.5", 2, "--mean-bits must be 2 or more"),
        (f"{EXPORT} --mean-bits nan", 2, "--mean-bits must be"),
        (f"{EXPORT} --mean-bits inf", 2, "--mean-bits must be"),
        (f"{EXPORT} --method range --mean-bits 6", 2, "--mean-bits is nothing to the method range"),
        (f"{EXPORT} --method budget", 2, "the method budget needs --mean-bits; give it"),
        (f"{EXPORT} --method sqrn", 2, "'sqrn' is not one of"),
        (f"{EXPORT} --clip max", 2, "'max' is not one of"),
        (f"{EXPORT} --granularity layer", 2, "'layer' is not one of"),
        (f"{EXPORT} --format toml", 2, "'toml' is not one of"),
        (f"{EXPORT} --activation-target=-inf", 2, "--activation-target must be"),
        (f"{EXPORT} --weight-target=-inf", 2, "--weight-target must be"),
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
    defaults = Options()
    for name in ("activation_target", "weight_target", "clip"):
        assert options[name].default == getattr(defaults, name)

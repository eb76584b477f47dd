import shutil

import pytest

from calibzarr import cli
from tests.support.commands import assert_refused
from tests.support.measuring import measure

COMMAND = cli.cli.commands["quantize"]


@pytest.fixture
def place(replayed, tmp_path, monkeypatch):
    """A directory to work in: a store with sensitivities, and one without."""
    shutil.copytree(replayed.path, tmp_path / "a.zarr")
    measure(tmp_path / "a.zarr", images=1, probes=1)
    shutil.copytree(replayed.path, tmp_path / "b.zarr")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_says_what_it_made_and_what_to_do_next(run, place):
    options = ["--size", "1.2MB", "--rounding", "nearest", "--keep", "final_layer.*"]
    code, out, err = run("quantize", "a.zarr", "new", *options)
    assert code == 0
    size = (place / "new" / "model.safetensors").stat().st_size
    assert 0.995 * 1.2e6 <= size <= 1.2e6
    assert f"{size / 1e6:.3g} MB in all" in out
    assert "2 layers with" in out
    assert "predicted output SQNR" in out
    assert "The whole pipeline takes" in out
    assert "build STORE2 --reference a.zarr --model new" in out
    assert "12 or more are needed for that, a.zarr has 7" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("quantize a.zarr new", 2, "give either --bits-per-weight or --size"),
        ("quantize a.zarr new --size many", 2, "'many' is not a size such as 1.6GB"),
        ("quantize a.zarr new --bits-per-weight 4 --groups a", 2, "not a list of groups"),
        ("quantize a.zarr new --bits-per-weight 4 --groups 16", 2, "--groups must be of 32"),
        ("quantize a.zarr b.zarr --bits-per-weight 4", 1, "b.zarr exists already"),
        ("quantize b.zarr new --bits-per-weight 4", 1, "calibzarr sensitivity b.zarr"),
        ("quantize c.zarr new --bits-per-weight 4", 1, "c.zarr"),
    ],
)
def test_bad_input_is_one_line(run, place, arguments, code, message):
    assert_refused(run, place, arguments, code, message)


def test_help_shows_every_option(run):
    code, out, _ = run("quantize", "--help")
    assert code == 0
    for parameter in COMMAND.params:
        assert all(option in out for option in parameter.opts if option.startswith("--"))

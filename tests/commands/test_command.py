import logging
import os
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from calibzarr import cli
from calibzarr.models import registry


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("build --num-image 3", "No such option '--num-image'."),
        ("build new --prompt-csv no.csv", "'--prompt-csv': File 'no.csv' does not exist."),
        ("build new --prompts no.csv", "'--prompts': File 'no.csv' does not exist."),
        ("build new --dtype=int8", "'--dtype': 'int8' is not one of 'float32', 'float16'."),
        ("verify a.zarr --sample 3", "--sample needs --model."),
    ],
)
def test_usage_errors_name_the_option_as_typed_and_where_help_is(run, arguments, message):
    code, out, err = run(*arguments.split())
    name = arguments.split()[0]
    assert (code, out) == (2, "")
    assert message in err
    assert err.endswith(f" Try 'calibzarr {name} -h'.\n")
    assert err.count("\n") == 1


def test_a_command_that_does_not_exist_is_told_with_near_ones(run):
    code, _, err = run("analyzer")
    assert code == 2
    assert err.startswith("Error: No such command 'analyzer'.")
    assert err.endswith(" Try 'calibzarr -h'.\n")


@pytest.fixture
def chatter(monkeypatch):
    """A model whose loading is told of, by calibzarr and by DiffusionKit."""
    load = registry.load

    def loud(name):
        logging.getLogger("diffusionkit.mlx").info("chatter")
        logging.getLogger("calibzarr.models").info("detail")
        return load(name)

    monkeypatch.setattr(registry, "load", loud)


@pytest.mark.parametrize(
    ("before", "after", "detail", "others"),
    [
        ([], [], False, False),
        (["-v"], [], True, False),
        ([], ["-v"], True, False),
        ([], ["-vv"], True, True),
        (["-v"], ["-v"], True, True),
    ],
)
def test_detail_is_told_when_asked_for(run, tmp_path, chatter, before, after, detail, others):
    options = ["--num-images", 1, "--num-steps", 1]
    code, out, err = run(*before, "build", tmp_path / "a.zarr", *options, *after)
    assert code == 0
    assert ("calibzarr.models: detail\n" in err, "diffusionkit.mlx: chatter\n" in err) == (
        detail,
        others,
    )
    assert "models: detail" not in out
    assert not logging.getLogger("calibzarr").handlers


def test_quiet_keeps_results_and_drops_hints(run, make_store, tmp_path):
    path = make_store(num_images=1, num_steps=1)
    code, out, err = run("build", path, "--resume", "-q")
    assert (code, err) == (0, "")
    assert out == f"{path}: 1 of 1 images are complete\n"
    assert run("info", path, "-q") == run("info", path)
    assert run("models", "-q") == run("models")
    file = tmp_path / "p.txt"
    assert run("prompts", "--out", file, "-q", "--count", 1) == (0, f"{file}: 1 prompts\n", "")


def offered(*words):
    completer = ShellComplete(cli.cli, {}, "calibzarr", "_CALIBZARR_COMPLETE")
    *before, incomplete = words
    return [item.value for item in completer.get_completions(before, incomplete)]


def test_words_are_completed(place):
    assert offered("exp") == ["export-config", "export-legacy"]
    assert offered("build", "--model", "flux") == ["flux-schnell", "flux-dev"]
    assert offered("analyze", "a.zarr", "--sort", "s") == ["sigma", "sqnr"]
    assert offered("analyze", "a.zarr", "--kind", "mlp.") == ["mlp.fc1", "mlp.fc2"]
    assert set(offered("analyze", "a.zarr", "--stream", "")) >= {"image", "text"}
    assert offered("analyze", "missing.zarr", "--kind", "") == []
    assert offered("export-config", "a.zarr", "--method", "ta") == ["target"]


def test_the_shells_get_what_help_says_they_get(run):
    line = run("--help")[1].replace("\n", " ")
    assert "_CALIBZARR_COMPLETE=bash_source" in line
    code = "from calibzarr.cli import main; import sys; sys.argv[0] = 'calibzarr'; main()"
    for shell in ("bash", "zsh", "fish"):
        asked = {**os.environ, "_CALIBZARR_COMPLETE": f"{shell}_source"}
        result = subprocess.run(
            [sys.executable, "-c", code], env=asked, capture_output=True, text=True, check=True
        )
        assert "_CALIBZARR_COMPLETE" in result.stdout

import json
import subprocess
import sys

import pytest

from calibzarr import cli
from calibzarr.models import registry


def test_build_says_what_it_makes_where_it_is_and_what_is_next(run, tmp_path):
    path = tmp_path / "a.zarr"
    code, out, err = run("build", path, "--num-images", 2, "--num-steps", 1)
    assert code == 0
    assert "2 images of 64x64 pixels, 1 steps, with tiny, about 38.1 kB on disk" in err
    assert f"{path}: 2 of 2 images are complete" in out
    assert f"calibzarr info {path}" in out
    code, out, err = run("build", path, "--resume")
    assert (code, "nothing to build" in err) == (0, True)


def test_a_part_names_the_command_that_goes_on(run, tmp_path):
    path = tmp_path / "a.zarr"
    code, out, _ = run(
        "build", path, "--num-images", 2, "--num-steps", 1, "--images", "1:2", "--batch-size", 1
    )
    assert code == 0
    assert "1 of 2 images are complete" in out
    assert f"the other images are another builder's, or: calibzarr build {path} --resume" in out


def test_old_name_of_the_prompt_option_still_works(run, tmp_path):
    prompts = tmp_path / "p.csv"
    prompts.write_text("prompt\na cat\n")
    path = tmp_path / "a.zarr"
    assert run("build", path, "--prompt-csv", prompts, "--num-steps", 1)[0] == 0
    description = json.loads(run("info", path, "--json")[1])
    assert description["manifest"]["prompt_source"] == "p.csv"
    assert description["num_images"] == 1


def test_quiet_prints_results_only(run, tmp_path):
    path = tmp_path / "a.zarr"
    code, out, err = run("-q", "build", path, "--num-images", 1, "--num-steps", 1)
    assert (code, err) == (0, "")
    assert "1 of 1 images are complete" in out
    code, out, err = run("collect", path, "-q", "--steps", "0,1", "--images", "0:1")
    assert (code, err) == (0, "")
    assert "1 images at 2 steps" in out


def test_info_for_people_and_for_programs(run, tmp_path):
    path = tmp_path / "a.zarr"
    run("build", path, "--num-images", 2, "--num-steps", 1, "--images", "0:1")
    code, out, _ = run("info", path)
    assert code == 0
    for part in ("1 of 2", "tiny", "euler", "nothing yet", "model_fingerprint"):
        assert part in out
    description = json.loads(run("info", path, "--json")[1])
    assert (description["n_completed"], description["num_images"]) == (1, 2)
    files = [file for file in path.rglob("*") if file.is_file()]
    assert sum(description["bytes"].values()) == sum(file.stat().st_size for file in files)
    assert description["files"] == len(files)
    assert description["collected"] is None


def test_models_lists_all_and_where_their_weights_are(run):
    code, out, _ = run("models")
    assert code == 0
    for name in registry.MODELS:
        assert name in out
    assert "embedded" in out
    assert "missing" in out


def prepare(tmp_path):
    """Files and stores that a user may point at by mistake."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "directory" / "sub").mkdir(parents=True)
    newer = tmp_path / "newer.zarr"
    newer.mkdir()
    attributes = {"format": "calibzarr", "format_version": 99}
    (newer / "zarr.json").write_text(json.dumps({"attributes": attributes}))
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "columns.csv").write_text("text,id\na,1\n")
    (tmp_path / "latin.txt").write_bytes(b"\xe9\n")
    (tmp_path / "two.txt").write_text("a\nb\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("build new --prompts missing.csv", 2, "'missing.csv' does not exist"),
        ("build new --prompts empty.csv", 1, "empty.csv has no prompts"),
        ("build new --prompts columns.csv", 1, "its columns are text, id"),
        ("build new --prompts latin.txt", 1, "not UTF-8"),
        ("build new --prompts two.txt --num-images 3", 2, "two.txt has 2; ask for 2, or use --rep"),
        ("build new --image-size 100", 2, "multiple of 16"),
        ("build new --num-images 0", 2, "0 is not in the range x>=1"),
        ("build new --num-steps -3", 2, "-3 is not in the range"),
        ("build new --batch-size 0", 2, "0 is not in the range"),
        ("build new --model sdxl", 2, "the models are tiny, sd3-medium"),
        ("build new --images 5", 2, "'5' is not a range of images such as 0:100"),
        ("build new --images ²:5", 2, "'²:5' is not a range"),
        ("collect directory --steps ²", 2, "'²' is not key, all"),
        ("build new --dtype int8", 2, "'int8' is not one of"),
        ("build new --seed 4294967290", 2, "seed must be 0 to 4294967280 for 16 images"),
        ("build file", 1, "file is a file"),
        ("build directory", 1, "directory is not a calibzarr store"),
        ("build newer.zarr", 1, "format version 99; this calibzarr reads version 1"),
        ("build newer.zarr --resume", 1, "Upgrade calibzarr"),
        ("build file/new", 1, "file is not a directory"),
        ("build /proc/calibzarr/new", 1, "/proc"),
        ("build --no-such-option", 2, "--no-such-option"),
        ("info missing.zarr", 1, "there is no store at missing.zarr"),
        ("info directory", 1, "not a calibzarr store"),
        ("infos", 2, "'infos'"),
    ],
)
def test_bad_input_gives_one_line_and_changes_nothing(
    run, tmp_path, monkeypatch, arguments, code, message
):
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    actual, out, err = run(*arguments.split())
    assert actual == code
    assert out == ""
    assert message in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_missing_weights_are_told_in_one_line_before_anything_is_created(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\n")
    command = ["build", "a.zarr", "--model", "sd3-medium", "--prompts", "p.txt"]
    result = subprocess.run(
        [sys.executable, "-m", "calibzarr", *command], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 1
    error = result.stderr.splitlines()[-1]
    assert "argmaxinc/mlx-stable-diffusion-3-medium" in error
    assert "hf download" in error
    assert "Traceback" not in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.txt"]


def test_help_imports_neither_mlx_nor_xarray():
    code = (
        "import sys; from calibzarr import cli; sys.argv = ['calibzarr', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('mlx', 'xarray', 'zarr', 'numpy') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
    assert "build" in result.stdout


def test_every_command_has_help_and_an_example_that_names_it():
    for name, command in cli.cli.commands.items():
        assert command.help
        if command.params and any(p.param_type_name == "argument" for p in command.params):
            assert f"calibzarr {name}" in command.help

import json
import subprocess
import sys

import click
import pytest

from calibzarr import cli


def test_quiet_prints_results_only(run, tmp_path):
    path = tmp_path / "a.zarr"
    code, out, err = run("-q", "build", path, "--num-images", 1, "--num-steps", 1)
    assert (code, err) == (0, "")
    assert "1 of 1 images are complete" in out
    code, out, err = run("collect", path, "-q", "--steps", "0,1", "--images", "0:1")
    assert (code, err) == (0, "")
    assert "1 images at 2 steps" in out


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


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("build new --prompts empty.csv", 1, "empty.csv has no prompts"),
        ("build new --prompts columns.csv", 1, "its columns are text, id"),
        ("build new --prompts latin.txt", 1, "not UTF-8"),
        ("build new --num-steps -3", 2, "-3 is not in the range"),
        ("build new --batch-size 0", 2, "0 is not in the range"),
        ("build new --images ²:5", 2, "'²:5' is not a range"),
        ("collect directory --steps ²", 2, "'²' is not key, all"),
        ("build new --seed 4294967290", 2, "seed must be 0 to 4294967280 for 16 images"),
        ("build file", 1, "file is a file"),
        ("build directory", 1, "directory is not a calibzarr store"),
        ("build newer.zarr", 1, "format version 99; this calibzarr reads version 1"),
        ("build newer.zarr --resume", 1, "Upgrade calibzarr"),
        ("build file/new", 1, "file is not a directory"),
        ("build /proc/calibzarr/new", 1, "/proc"),
        ("info directory", 1, "not a calibzarr store"),
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


def test_help_comes_at_once_and_needs_none_of_the_large_libraries():
    large = ("mlx", "xarray", "zarr", "numpy", "rich")
    code = (
        "import sys; from calibzarr import cli; sys.argv = ['calibzarr', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        f"print([name for name in {large} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
    assert "build" in result.stdout


def test_commands_stand_in_the_order_of_the_work_and_are_told_of_whole(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    listed = {}
    for line in out.splitlines():
        name, _, summary = line.strip().partition(" ")
        if name in cli.cli.commands:
            listed[name] = summary.strip()
    assert list(listed) == list(cli.cli.commands)
    assert list(listed)[:4] == ["models", "download", "prompts", "build"]
    for name, command in cli.cli.commands.items():
        assert listed[name] == command.help.split("\n\n")[0]  # in one line
    titles = [line for line in out.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == ["Build:", "Look:", "Advise:", "Move:", "Mend:", "Options:"]
    assert run() == (0, out, "")


# options without a default: nothing is written, shown or taken that is not asked for
WITHOUT = {"json_file", "csv_file", "plots", "out", "image", "against"}


@pytest.mark.parametrize("name", cli.cli.commands)
def test_help_has_every_option_with_its_default_and_examples_at_the_end(run, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    command = cli.cli.commands[name]
    code, out, err = run(name, "--help")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    options, _, examples = out.partition("\nExamples:\n")
    general = [options.index(words) for words in ("\nGeneral:\n", "-v, --verbose", "-q, --quiet")]
    assert general == sorted(general)
    assert [line.strip() for line in examples.splitlines()] == command.examples
    assert all(line.startswith(f"calibzarr {name}") for line in command.examples)
    if any(isinstance(parameter, click.Argument) for parameter in command.params):
        assert command.examples
    assert (
        options.index("\nGeneral:\n") < options.index("-v, --verbose") < options.index("-q, --qu")
    )
    context = click.Context(command, info_name=name, show_default=True)
    for option in command.params:
        if isinstance(option, click.Option) and not option.is_flag and not option.count:
            assert option.help
            assert "[default: " in option.get_help_record(context)[1] or option.name in WITHOUT
    assert "[default: (" not in " ".join(out.split())
    known = {parameter.name for parameter in command.params}
    assert all(known.issuperset(names) for names in command.option_groups.values())


def test_hints_are_typed_as_the_program_was(run, tmp_path, monkeypatch):
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    monkeypatch.delenv("UV", raising=False)
    file = tmp_path / "p.txt"
    _, out, _ = run("prompts", "--count", 1, "--out", file)
    command = f"uv run calibzarr build stores/sd3.zarr --model sd3-medium --prompts {file}"
    assert f"sample them with: {command}\n" in out
    _, _, err = run("prompts", "--count", 1, "--out", file)
    assert err == f"Error: {file} exists already; overwrite it with --force\n"


def test_paths_and_prompts_command_no_terminal(run, tmp_path):
    hostile = "\x1b[31m\u202e\udcff"
    path, prompts = tmp_path / f"a{hostile}.zarr", tmp_path / f"p{hostile}.csv"
    prompts.write_text('prompt\n"#\x1b[2Ja \u202ered\x07 star"\n')
    moved, wrong = tmp_path / f"old{hostile}", tmp_path / f"x{hostile}"
    printed = ""
    for expected, *words in (
        (0, "build", path, "--prompts", prompts, "--num-steps", 1, "--image-size", 16),
        (0, "info", path),
        (0, "verify", path),
        (0, "export-legacy", path, moved),
        (0, "import-legacy", moved, tmp_path / f"b{hostile}.zarr"),
        (0, "repair", path),
        (2, "build", path),
        (1, "info", wrong),
        (2, "build", tmp_path / "b", "--prompts", wrong),
        (2, "build", tmp_path / "b", "--model", hostile),
        (2, f"x{hostile}"),
    ):
        code, out, err = run(*words)
        assert code == expected, err
        printed += out + err
    assert not {character for character in printed if ord(character) < 32} - set("\n")
    assert "\u202e" not in printed
    assert "\udcff" not in printed
    assert r"a\x1b[31m\u202e\udcff.zarr" in printed

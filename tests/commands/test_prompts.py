import re
import subprocess
import sys

import pytest

from calibzarr.prompts.general import make_prompts
from calibzarr.prompts.lists import read_prompts
from tests.support.full_disk import fill


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "P.CSV", "prompts", "new/folder/p.csv"])
def test_written_prompts_are_read_back(run, tmp_path, name):
    path = tmp_path / name
    code, out, err = run("prompts", "--count", 500, "--seed", 3, "--out", path)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"{path}: 500 prompts"
    assert f"calibzarr build stores/sd3.zarr --model sd3-medium --prompts {path}\n" in out
    read = read_prompts(path)
    assert read.prompts == make_prompts(500, 3)
    assert read.seeds == (None,) * 500
    assert any('"' in prompt and "," in prompt for prompt in read.prompts)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_full_disk_leaves_what_was_there(run, tmp_path, monkeypatch):
    path = tmp_path / "p.txt"
    fill(monkeypatch)
    code, out, err = run("prompts", "--count", 5, "--out", path)
    assert (code, out) == (1, "")
    told = "the disk is full: {} {}; make room, then give the same command again\n"
    assert err == "Error: " + told.format(path, "is not written")
    path.write_text("before")
    code, out, err = run("prompts", "--count", 5, "--out", path, "--force")
    assert err == "Error: " + told.format(path, "stays as it was")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_prompts_are_printed_one_a_line(run):
    code, out, err = run("prompts", "--count", 20, "--seed", 4)
    assert (code, err) == (0, "")
    assert out == "".join(f"{prompt}\n" for prompt in make_prompts(20, 4))


def test_quiet_tells_only_where_they_are(run, tmp_path):
    path = tmp_path / "p.txt"
    assert run("prompts", "--count", 3, "--out", path, "-q") == (0, f"{path}: 3 prompts\n", "")


def test_existing_file_is_kept_without_force(run, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("mine")
    code, out, err = run("prompts", "--out", path)
    assert (code, out) == (1, "")
    assert err == f"Error: {path} exists already; overwrite it with --force\n"
    assert path.read_text() == "mine"
    assert run("prompts", "--count", 5, "--out", path, "--force")[0] == 0
    assert read_prompts(path).prompts == make_prompts(5)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--count", "0"], 2, "count must be 1 to 100000, got 0"),
        (["--count", "100001"], 2, "count must be 1 to 100000, got 100001"),
        (["--count", "many"], 2, "'many' is not a valid integer"),
        (["--seed", "-1"], 2, "seed must be 0 to 4294967295, got -1"),
        (["--out", "."], 2, "is a directory"),
        (["--out", "taken/p.csv"], 1, "taken"),
    ],
)
def test_bad_options_are_one_line_on_standard_error(
    run, tmp_path, monkeypatch, options, code, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file")
    actual, out, err = run("prompts", *options)
    assert (actual, out, err.count("\n")) == (code, "", 1)
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_reader_that_stops_early_sees_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "calibzarr", "prompts", "--count", "20000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == f"{make_prompts(1)[0]}\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 0


@pytest.mark.parametrize("command", ["prompts", "build"])
def test_examples_in_the_help_stand_on_their_own_lines(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert len(re.findall(rf"^  calibzarr {command}\b", out, re.MULTILINE)) >= 2
    assert "\\b" not in out

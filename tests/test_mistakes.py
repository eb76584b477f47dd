"""What is typed wrongly: told in one line, with what was given and what is allowed."""

import shutil

import pytest

from tests.support.files import ROOT
from tests.support.stores import snapshot


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store, a folder and files, as somebody has who tries things; no test changes it."""
    folder = tmp_path_factory.mktemp("mistakes")
    shutil.copytree(ROOT / "stores" / "example.zarr", folder / "tiny.zarr")
    (folder / "folder" / "sub").mkdir(parents=True)
    (folder / "file.txt").write_text("a red circle\n")
    (folder / "there.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "given", "allowed"),
    [
        ("builds", 2, "'builds'", "'build'"),
        ("build new --nun-images 3", 2, "'--nun-images'", "'--num-images'"),
        ("build new --model tyni", 2, "'tyni'", "tiny"),
        ("build new --prompts fil.txt", 2, "'fil.txt'", "does not exist"),
        ("build new --prompts folder", 2, "'folder'", "is a directory"),
        ("build new --num-images 0", 2, "0 is not", "x>=1"),
        ("build new --num-images many", 2, "'many'", "integer"),
        ("build new --cfg-weight none", 2, "'none'", "float"),
        ("build new --image-size 100", 2, "100", "multiple of 16"),
        ("build new --images 9:4", 2, "9:4", "0 <= A < B <= 16"),
        ("build new --images 0:100", 2, "0:100", "0 <= A < B <= 16"),
        ("build new --images 4", 2, "'4'", "such as 0:100"),
        ("build new --dtype float8", 2, "'float8'", "'float16'"),
        ("build new --prompts file.txt --num-images 9", 2, "file.txt has 1", "--repeat"),
        ("build tiny.zarr", 2, "tiny.zarr exists", "--resume"),
        ("build tinny.zarr --resume", 2, "tinny.zarr", "near it: tiny.zarr"),
        ("build tiny.zarr --resume --seed 5", 2, "--seed", "with 5"),
        ("build file.txt --resume", 1, "file.txt is a file", "directory"),
        ("collect tiny", 1, "tiny;", "near it: tiny.zarr"),
        ("collect folder", 1, "folder", "not a calibzarr store"),
        ("collect tiny.zarr --steps 0,99", 2, "99", "0 to 50"),
        ("collect tiny.zarr --steps keys", 2, "'keys'", "key, all"),
        ("collect tiny.zarr --images 4:100", 2, "4:100", "B <= 4"),
        ("sensitivity tiny.zarr --clip max", 2, "'max'", "'minmax'"),
        ("sensitivity tiny.zarr --steps 60", 2, "60", "0 to 49"),
        ("analyze tiny.zarr --kind mlp.fc3", 2, "'mlp.fc3'", "mlp.fc1"),
        ("analyze tiny.zarr --sort outlier", 2, "'outlier'", "outliers"),
        ("analyze tiny.zarr --stream pictures", 2, "'pictures'", "image"),
        ("analyze tiny.zarr --top -1", 2, "-1", "x>=1"),
        ("analyze tiny.zarr --csv folder", 1, "folder is a directory", "name a file"),
        ("export-config tiny.zarr c.json --format yaml", 2, "'yaml'", "'mlx'"),
        ("export-config tiny.zarr c.json --weight-bits 11", 2, "11", "to 8"),
        ("export-config tiny.zarr c.json --method sqnr", 2, "'sqnr'", "'budget'"),
        ("export-config tiny.zarr there.json", 1, "there.json exists", "--force"),
        ("export-config tiny.zarr", 2, "Missing", "'FILE'"),
        ("quantize tiny.zarr out --size 5QB", 2, "'5QB'", "1.6GB"),
        ("compare tiny.zarr", 2, "Missing", "RUN"),
        ("compare tiny.zarr tiny.zarr --features os", 2, "'os'", "MODULE:FUNCTION"),
        ("show tiny.zarr --image 9", 2, "9", "0 to 3"),
        ("verify tiny.zarr --sample 3", 2, "--sample", "--model"),
        ("verify tiny.za", 1, "tiny.za;", "near it: tiny.zarr"),
        ("repair folder", 1, "folder", "not a calibzarr store"),
        ("export-legacy tiny.zarr file.txt", 1, "file.txt is a file", "directory"),
        ("export-legacy tiny.zarr out --only pictures", 2, "'pictures'", "images"),
        ("import-legacy folder new.zarr", 1, "folder", "such as 0000_000.npz"),
        ("prompts --count 0", 2, "0", "1 to"),
        ("download sd3", 2, "'sd3'", "sd3-medium"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_changes_nothing(
    run, folder, monkeypatch, arguments, code, given, allowed
):
    monkeypatch.chdir(folder)
    before, entries = snapshot(folder), sorted(folder.rglob("*"))
    actual, out, err = run(*arguments.split())
    assert (actual, out) == (code, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert given in err
    assert allowed in err
    assert "Traceback" not in err
    assert (snapshot(folder), sorted(folder.rglob("*"))) == (before, entries)

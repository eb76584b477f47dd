import csv
import json

import numpy as np
import pytest

from tests.support.commands import assert_refused
from tests.support.comparing import noisy_copy


@pytest.fixture
def compared(make_store, tmp_path, monkeypatch):
    """A directory with a reference and two noisy copies of it, and a module of features."""
    reference = make_store(num_images=3, num_steps=2)
    (tmp_path / "a.zarr").symlink_to(reference)
    noisy_copy(reference, tmp_path / "near.zarr", 0.01, 2)
    noisy_copy(reference, tmp_path / "far.zarr", 0.05, 9, images=(0, 2))
    (tmp_path / "my_features.py").write_text(
        "NUMBER = 3\ndef means(pictures):\n    return pictures.mean(axis=(1, 2))\n"
    )
    (tmp_path / "taken.json").write_text("old")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(file):
    return list(csv.DictReader(file.read_text().splitlines()))


def test_the_files_say_what_is_printed(run, compared):
    code, out, err = run(
        *["compare", "a.zarr", "near.zarr", "far.zarr", "--json", "all.json", "--csv", "all.csv"]
    )
    assert (code, err) == (0, "")
    assert "2 of 3 images of a.zarr" in out
    assert "worst is image" in out
    content = json.loads((compared / "all.json").read_text())
    assert content["schema_version"] == 1
    assert [image["image"] for image in content["images"]] == [0, 2]
    table = rows_of(compared / "all.csv")
    assert [(row["run"], row["image"]) for row in table] == [
        ("near.zarr", "0"),
        ("near.zarr", "2"),
        ("far.zarr", "0"),
        ("far.zarr", "2"),
    ]
    for index, found in enumerate(content["runs"]):
        rows = table[2 * index : 2 * index + 2]
        pictures = found["pictures"]
        assert f"{pictures['psnr_db']['mean']['value']:.1f}" in out
        assert pictures["psnr_db"]["by_image"] == [float(row["psnr_db"]) for row in rows]
        assert pictures["ssim"]["by_image"] == [float(row["ssim"]) for row in rows]
        assert found["final_error"] == [float(row["final_error"]) for row in rows]
        assert pictures["psnr_db"]["mean"]["value"] == pytest.approx(
            np.mean(pictures["psnr_db"]["by_image"])
        )
        assert pictures["worst"]["prompt"] in [row["prompt"] for row in rows]
        assert len(found["states"]["relative_error"]) == 3
        assert set(found["skipped"]) == {"teacher_forced", "predicted"}


def test_infinite_figures_are_null_and_said_to_be_infinite(run, compared):
    code, out, _ = run("compare", "a.zarr", "a.zarr", "--json", "all.json", "--csv", "all.csv")
    assert code == 0
    assert "infinite" in out
    (found,) = json.loads((compared / "all.json").read_text())["runs"]
    mean = found["pictures"]["psnr_db"]["mean"]
    assert mean == {"value": None, "low": None, "high": None, "infinite": True}
    assert found["states"]["relative_error"] == [0, 0, 0]
    assert {row["psnr_db"] for row in rows_of(compared / "all.csv")} == {"inf"}


def test_every_line_of_the_table_fits_80_columns(run, compared):
    _, out, _ = run("compare", "a.zarr", "near.zarr", "far.zarr")
    table = [line for line in out.splitlines()[1:8]]
    assert any("95 % to" in line for line in table)
    assert max(map(len, table)) <= 80


def test_features_come_from_a_module_of_the_working_directory(run, compared):
    written = ["--features", "my_features:means", "--json", "f.json"]
    code, _, err = run("compare", "a.zarr", "near.zarr", *written)
    assert (code, err) == (0, "")
    (found,) = json.loads((compared / "f.json").read_text())["runs"]
    assert found["frechet_distance"]["features"] == "3 features of pictures"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("compare a.zarr", 2, "RUN"),
        ("compare a.zarr missing.zarr", 1, "there is no store at missing.zarr"),
        ("compare a.zarr near.zarr --json taken.json", 1, "overwrite it with --force"),
        ("compare a.zarr near.zarr --csv near.zarr/x.csv", 1, "is within the store"),
        ("compare a.zarr near.zarr --json no/x.json --csv taken.json/x", 1, "not a directory"),
        ("compare a.zarr near.zarr --features nothing:f", 2, "No module named 'nothing'"),
        ("compare a.zarr near.zarr --features my_features:f", 2, "has no attribute 'f'"),
        ("compare a.zarr near.zarr --features my_features:NUMBER", 2, "is not MODULE:FUNCTION"),
        ("compare a.zarr near.zarr --features my_features", 2, "is not MODULE:FUNCTION"),
    ],
)
def test_bad_input_gives_one_line_and_changes_nothing(run, compared, arguments, code, message):
    assert_refused(run, compared, arguments, code, message)


def test_force_overwrites(run, compared):
    assert run(*["compare", "a.zarr", "near.zarr", "--json", "taken.json", "--force"])[0] == 0
    assert json.loads((compared / "taken.json").read_text())["num_images"] == 3


def test_ctrl_c_ends_it_and_nothing_is_written(run, compared):
    (compared / "stopping_features.py").write_text(
        "import os, signal\n"
        "def stop(pictures):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return pictures.mean(axis=(1, 2))\n"
    )
    written = ["--features", "stopping_features:stop", "--json", "f.json"]
    code, out, err = run("compare", "a.zarr", "near.zarr", *written)
    assert (code, out) == (130, "stopped; nothing is written\n")
    assert "stopping after the image in work" in err
    assert not (compared / "f.json").exists()

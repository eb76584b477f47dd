import json
import math
import re
import shutil

import pytest

import calibzarr
from calibzarr.storage import commit
from tests.support.files import read_json
from tests.support.measuring import measure


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
    names = [line.split()[0] for line in out.splitlines()]
    assert len(names) == len(set(names))
    assert not {"num_images", "n_completed", "format"} & set(names)


def test_info_tells_what_statistics_and_sensitivities_take(run, make_store, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    options = {"num_images": 3, "num_steps": 1, "image_size": 32}
    path = shutil.copytree(make_store(**options, collect={"steps": "all"}), tmp_path / "a.zarr")
    before = run("info", path)[1]
    assert "sensitivities 0 bytes, other" in before
    measure(path, images=1, probes=1)
    after = run("info", path)[1]
    assert "1 images, 1 probes, steps 0" in after
    on_disk = r"statistics ([^,]*), sensitivities ([\d.]+) kB"
    assert re.search(on_disk, after)[1] == re.search("statistics ([^,]*), sens", before)[1]


def test_json_has_no_nan(run, place):
    root = read_json(place / "bare.zarr" / "zarr.json")
    root["attributes"].pop("integrity")
    shutil.rmtree(place / "bare.zarr" / "copies")
    root["attributes"]["cfg_weight"] = math.nan
    (place / "bare.zarr" / "zarr.json").write_text(json.dumps(root))
    printed = run("info", "bare.zarr", "--json")[1]
    assert read_strictly(printed)["manifest"]["cfg_weight"] is None
    calibzarr.export_legacy(place / "bare.zarr", place / "old")
    assert read_strictly((place / "old" / "manifest.json").read_text())["cfg_scale"] is None
    commit.update_attributes(place / "bare.zarr", {"n_completed": 1})
    stored = read_strictly((place / "bare.zarr" / "zarr.json").read_text())
    assert stored["attributes"]["cfg_weight"] is None
    assert calibzarr.open_store(place / "bare.zarr").attrs["cfg_weight"] is None


def read_strictly(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

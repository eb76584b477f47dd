import json
import shutil

import pytest


@pytest.mark.slow
def test_verify_reports_for_people_and_for_programs(run, tmp_path, make_store):
    whole = make_store(num_images=3, num_steps=4, image_size=32)
    path = shutil.copytree(whole, tmp_path / "a.zarr")
    code, out, _ = run("verify", path)
    assert code == 0
    assert "nothing is wrong" in out
    code, out, _ = run("verify", path, "--json", "--model", "--sample", 1)
    assert code == 0
    assert json.loads(out)["checks"]["model"] == {"passed": 1, "failed": 0}
    (path / "decoded" / "c.1.0.0.0").unlink()
    code, out, _ = run("verify", path, "-q")
    assert code == 1
    assert f"calibzarr repair {path}" in out
    code, out, _ = run("verify", path, "--json")
    assert code == 1
    report = json.loads(out)
    assert not report["ok"]
    assert report["findings"] == [{"check": "picture", "image": 1, "message": "it is missing"}]
    assert report["checks"]["picture"] == {"passed": 2, "failed": 1}


def test_verify_refuses_options_that_say_nothing(run, tmp_path):
    code, _, err = run("verify", tmp_path, "--sample", 3)
    assert (code, err) == (2, "Error: --sample needs --model. Try 'calibzarr verify -h'.\n")
    code, _, err = run("verify", tmp_path / "none")
    assert code == 1
    assert "there is no store" in err

import json


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

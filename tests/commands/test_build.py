import json
import subprocess
import sys

from tests.support.configurations import of_model


def test_build_says_what_it_makes_where_it_is_and_what_is_next(run, tmp_path):
    path = tmp_path / "a.zarr"
    code, out, err = run("build", path, "--num-images", 2, "--num-steps", 1)
    assert code == 0
    assert "2 images of 64x64 pixels, 1 steps, with tiny, about 38.1 kB on disk" in err
    assert f"{path}: 2 of 2 images are complete" in out
    assert f"calibzarr info {path}" in out
    code, out, err = run("build", path, "--resume")
    assert (code, "nothing to build" in err) == (0, True)


def test_whoever_is_first_of_several_begins_the_store_and_says_so(run, tmp_path):
    path = tmp_path / "a.zarr"
    options = ["--num-images", 2, "--num-steps", 1, "--resume"]
    code, _, err = run("build", path, *options, "--images", "1:2")
    assert (code, f"{path}: there is no store yet; it begins here\n" in err) == (0, True)
    code, _, err = run("build", path, *options, "--images", "0:1")
    assert (code, "begins" in err) == (0, False)


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


def test_missing_weights_are_told_in_one_line_before_anything_is_created(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\n")
    command = ["build", "a.zarr", "--model", "sd3-medium", "--prompts", "p.txt"]
    result = subprocess.run(
        [sys.executable, "-m", "calibzarr", *command], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 1
    commands = result.stderr.partition("Error: ")[2].splitlines()[1:]
    assert all(line.startswith("hf download ") for line in commands)
    assert any("argmaxinc/mlx-stable-diffusion-3-medium" in line for line in commands)
    assert "Traceback" not in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.txt"]


def test_a_run_is_told_of_and_built_by_the_command(run, make_store, tmp_path, tiny):
    reference, path = make_store(num_images=2, num_steps=2), tmp_path / "w4.zarr"
    file = tmp_path / "w4.json"
    file.write_text(json.dumps(of_model(tiny, weight=4).content))
    options = ["--reference", reference, "--quantized", file]
    code, out, err = run("build", path, *options, "--images", "0:1")
    assert code == 0
    assert "1 images of 64x64 pixels, 2 steps, with quantized tiny" in err
    assert f"{path}: 1 of 2 images are complete" in out
    assert f"calibzarr build {path} --resume" in out
    code, out, _ = run("build", path, "--resume")
    assert (code, f"{path}: 2 of 2 images are complete" in out) == (0, True)
    code, out, _ = run("info", path)
    assert code == 0
    assert "quantized by a configuration," in " ".join(out.split())
    code, out, _ = run("info", path, "--json")
    assert json.loads(out)["manifest"]["reference"]["path"] == str(reference)
    code, _, err = run("build", tmp_path / "b.zarr", *options, "--seed", 3)
    assert code == 2
    assert "--seed is the reference's, got 3; beside --reference and --quantized, only" in err
    code, _, err = run("build", tmp_path / "b.zarr", *options, "--images", "1:7")
    assert (code, "must be A:B with 0 <= A < B <= 2, got 1:7" in err) == (2, True)
    code, _, err = run("collect", path)
    assert code == 1
    assert f"give the store that it is compared with: calibzarr collect {reference}" in err


def test_a_dry_run_says_what_a_build_takes_and_builds_nothing(run, tmp_path):
    code, out, _ = run("build", tmp_path / "a.zarr", "--num-images", "3", "--dry-run")
    assert code == 0
    images, disk, memory, time = out.splitlines()
    assert images == "images: 3 of 3, with tiny"
    assert disk.startswith("disk: ")
    assert memory.startswith("memory: weights in 16 bits 5.7 MB, a batch ")
    assert time == "time: not known"
    assert not list(tmp_path.iterdir())

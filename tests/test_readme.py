import os
import re
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from calibzarr.cli import cli
from calibzarr.integrity.verification import verify
from tests.support.files import ROOT, read_json
from tests.support.processes import fast_environment
from tests.support.readme import README, blocks, commands

FEW_STEPS = 3  # one of each phase; with --long as many as tiny takes


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory):
    """A folder in which all ``bash`` blocks were run, from the first line to the last."""
    directory = tmp_path_factory.mktemp("readme")
    steps = 0 if request.config.getoption("--long") else FEW_STEPS
    environment = {**(fast_environment() or os.environ), "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.readme", str(steps)],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return directory


@pytest.mark.slow
def test_blocks_for_the_shell_run_in_order_in_one_folder(folder):
    made = {path.name for path in (folder / "stores").glob("*.zarr")}
    assert (folder / "stores" / "tiny.png").exists()
    assert made == {"tiny.zarr", "w4.zarr", "tiny-4.5.zarr", "old.zarr"}
    for name in made:
        assert verify(folder / "stores" / name).ok
    moved, built = (xr.open_zarr(folder / "stores" / f"{name}.zarr") for name in ("old", "tiny"))
    np.testing.assert_array_equal(moved.latents, built.latents)
    assert read_json(folder / "all.json")["runs"]


@pytest.mark.slow
def test_python_example_slices_the_example_store_by_prompt_and_by_sigma(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)  # as after a clone
    names = {}
    exec(blocks("python")[0], names)
    whole = xr.open_zarr("stores/example.zarr").load()
    assert whole.complete.all()
    red = [i for i, prompt in enumerate(whole.prompt.values) if prompt.startswith("a red")]
    assert red
    np.testing.assert_array_equal(names["red"].latents, whole.latents[red])
    noisy = np.flatnonzero(whole.sigma.values > 0.5)
    np.testing.assert_array_equal(names["noisy"], whole.latents[:, noisy])
    nearest = np.abs(whole.sigma.values - 0.5).argmin()
    np.testing.assert_array_equal(names["near"], whole.latents[:, nearest])
    np.testing.assert_array_equal(names["final"], whole.latents[:, [-1]])
    printed = capsys.readouterr().out
    assert "a red" in printed


@pytest.mark.slow
def test_statistics_examples_say_what_they_print(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    names = {}
    exec(blocks("python")[1], names)
    whole = xr.open_zarr("stores/tiny.zarr").load()
    steps = np.flatnonzero(whole.collected)
    assert len(steps)
    low, high = whole.value_min.values[:, steps], whole.value_max.values[:, steps]
    np.testing.assert_array_equal(names["value_range"], high - low)
    np.testing.assert_array_equal(names["value_range"].step, whole.sigma[steps])
    np.testing.assert_array_equal(names["per_layer"], whole.histogram.values[:, steps].sum(axis=1))
    movement = high.max(axis=1) - high.min(axis=1)
    rows = [whole.layer.values.tolist().index(name) for name in names["moving"]]
    assert (movement[rows] == np.sort(movement)[:-6:-1]).all()  # q, k and v move alike
    chosen = (whole.kind == "mlp.fc2").values & (whole.stream == "image").values
    actual = names["by_kind"].sel(kind="mlp.fc2", stream="image")
    assert actual == (high - low)[chosen].max()
    assert names["tails"].shape == (67, len(steps), 3)
    assert (np.diff(names["tails"], axis=-1) >= 0).all()
    assert (names["tails"][..., 0] >= 1.02 * low - 1e-6).all()
    images = np.flatnonzero(whole.collected_image)
    assert len(images) == 16
    by_image = whole.image_max.values[:, steps][..., images]
    half = by_image[..., ::2].max(axis=-1) / by_image.max(axis=-1)
    np.testing.assert_allclose(names["convergence"], half.mean(axis=0), rtol=1e-5)
    printed = capsys.readouterr().out
    assert all(name in printed for name in names["moving"])


@pytest.mark.slow
def test_examples_of_python_say_what_they_print(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    names = {}
    exec(blocks("python")[2].replace("num_steps=50", "num_steps=3"), names)
    recommended = names["recommended"]
    linear = recommended.role.values == "input"
    by_path = {path: at for path, at in names["weights"].items() if isinstance(at, dict)}
    assert set(by_path) == set(recommended.module.values[linear])
    assert {entry["bits"] for entry in by_path.values()} <= {2, 3, 4, 5, 6, 8}
    assert len(set(recommended.weight_bits.values[linear])) > 1
    assert names["picture"].size == (64, 64)
    assert np.linalg.eigvalsh(names["hessian"]).min() > -1e-3
    printed = capsys.readouterr().out
    assert str(recommended.phase_clip_max.sel(layer="mm_block_0.image.mlp.fc2").values) in printed
    assert "(256, 256)" in printed


def test_every_command_in_the_readme_exists_with_its_options():
    lines = [*commands("bash"), *commands("console")]
    assert {line[0] for line in lines} == set(cli.commands)
    for name, *arguments in lines:
        known = {option for parameter in cli.commands[name].params for option in parameter.opts}
        assert {a.partition("=")[0] for a in arguments if a.startswith("--")} <= known
        arguments = [word for word in arguments if word != "--help"]
        with cli.commands[name].make_context(name, arguments, resilient_parsing=True) as context:
            required = [one for one in context.command.params if one.required]
            assert all(context.params[one.name] for one in required), (name, arguments)


def test_lines_for_the_shell_are_of_calibzarr_alone():
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) == len([*commands("bash")])


def test_it_is_read_at_one_sitting():
    assert len(README.splitlines()) <= 200


def test_layout_tables_name_files_that_exist():
    named = re.findall(r"`((?:calibzarr|scripts)/[\w/.]+)`", README)
    assert named
    for module in named:
        assert (ROOT / module).exists(), module


def test_the_page_on_the_house_names_files_that_exist_and_every_floor():
    house = (ROOT / "calibzarr" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)+[\w.]*|\w+\.py)`", house))
    for name in named:
        assert (ROOT / "calibzarr" / name).exists() or (ROOT / name).exists(), name
    package = ROOT / "calibzarr"
    floors = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert floors | modules <= named

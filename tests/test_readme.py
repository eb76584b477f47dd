import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from test_builder import wait_for_images

from calibzarr.cli import cli

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def interrupted_and_resumed(tmp_path_factory):
    """The README's default build of 16 images, with fewer steps, stopped once and gone on with."""
    directory = tmp_path_factory.mktemp("readme")
    command = [sys.executable, "-m", "calibzarr", "build"]
    process = subprocess.Popen([*command, "--num-steps", "6"], cwd=directory)
    path = directory / "stores" / "tiny.zarr"
    wait_for_images(process, path, 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert len(list(path.glob("latents/c.*"))) < 16
    subprocess.run([*command, str(path), "--resume"], check=True, cwd=directory)
    return directory


def test_python_example_slices_a_store_by_prompt_and_by_sigma(
    interrupted_and_resumed, monkeypatch, capsys
):
    monkeypatch.chdir(interrupted_and_resumed)
    names = {}
    (example,) = blocks("python")
    exec(example, names)
    whole = xr.open_zarr("stores/tiny.zarr").load()
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


def test_every_command_in_the_readme_exists_with_its_options():
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True)[3:] for line in lines if "run calibzarr" in line]
    assert {command[0] for command in commands} == set(cli.commands)
    for name, *arguments in commands:
        known = {option for parameter in cli.commands[name].params for option in parameter.opts}
        assert {a for a in arguments if a.startswith("--")} <= known


def test_layout_table_names_files_that_exist():
    root = Path(__file__).parents[1]
    for module in re.findall(r"`((?:calibzarr|scripts)/[\w/.]+)`", README):
        assert (root / module).exists(), module

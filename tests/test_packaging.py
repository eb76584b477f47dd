import os
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest

from tests.support.files import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())


@pytest.mark.slow
@pytest.mark.skipif("UV" not in os.environ, reason="needs uv: run scripts/test or uv run pytest")
def test_built_wheel_installed_as_the_readme_says_builds_a_store(tmp_path):
    def uv(*arguments):
        environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
        subprocess.run([os.environ["UV"], *map(str, arguments)], check=True, env=environment)

    uv("build", "--quiet", "--wheel", "--out-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    schema = "calibzarr/quantization/configuration/quantization_config.schema.json"
    assert {"calibzarr/py.typed", schema} <= set(names)
    constraints = tmp_path / "constraints.txt"
    export = ["--no-hashes", "--no-emit-project", "--all-groups"]
    uv("export", "--quiet", "--project", ROOT, "--locked", *export, "-o", constraints)
    environment = tmp_path / "environment"
    python = environment / "bin" / "python"
    uv("venv", "--quiet", "--python", sys.executable, environment)
    install = ["pip", "install", "--quiet", "--python", python]
    uv(*install, wheel, "--constraint", constraints)
    uv(*install, "--no-deps", "diffusionkit==0.5.2")
    command = ["build", "a.zarr", "--num-images", "1", "--num-steps", "1"]
    result = subprocess.run(
        [environment / "bin" / "calibzarr", *command], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "1 of 1 images are complete" in result.stdout
    code = "import xarray; print(float(xarray.open_zarr('a.zarr').latents.std()))"
    check = subprocess.run([python, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True)
    assert float(check.stdout) > 0.5, check.stderr


def test_lock_serves_both_platforms_without_the_heavy_packages():
    names = {package["name"] for package in LOCK["package"]}
    heavy = {"torch", "coremltools", "wandb", "scikit-learn", "argmaxtools"}
    assert not names & heavy
    assert {"mlx", "mlx-cpu", "mlx-metal", "diffusionkit"} <= names
    assert any("darwin" in marker for marker in LOCK["supported-markers"])
    assert any("linux" in marker for marker in LOCK["supported-markers"])


def test_readme_installs_the_version_of_diffusionkit_that_is_locked():
    (group,) = PYPROJECT["dependency-groups"]["diffusionkit"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"pip install --no-deps {group}" in readme
    (locked,) = (p["version"] for p in LOCK["package"] if p["name"] == "diffusionkit")
    assert group == f"diffusionkit=={locked}"


def test_top_level_is_what_newcomers_expect():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {re.split("/", line)[0] for line in listed.stdout.splitlines()}
    visible = {name for name in top if not name.startswith(".")}
    files = {"pyproject.toml", "README.md", "uv.lock", "LICENSE", "CHANGELOG.md"}
    assert visible == {"calibzarr", "stores", "tests", "scripts", *files}

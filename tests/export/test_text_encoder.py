"""Checkpoints with T5, from the store to the comparison of their run."""

import json
import os
import shutil
from pathlib import Path

import pytest

import calibzarr
from calibzarr.errors import StoreError
from calibzarr.models import registry
from tests.support import checkpoints
from tests.support.measuring import measure
from tests.support.stores import snapshot

pytestmark = pytest.mark.slow

HUB = Path(os.environ["HF_HUB_CACHE"])
OPTIONS = {"bits_per_weight": 4.5, "rounding": "nearest"}
KEPT = ("encoder.layers.0.attention.out_proj", "encoder.layers.0.dense.wo")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A store of a small SD3, a checkpoint of it with T5, and its run, of which half is built."""
    path = tmp_path_factory.mktemp("t5")
    checkpoints.write("sd3-medium", HUB)
    (path / "prompts.txt").write_text("a red circle\na cat\n")
    with pytest.MonkeyPatch.context() as patch:
        checkpoints.use_small_sizes(patch)
        model = registry.load("sd3-medium")
        patch.setattr(registry, "load", lambda name: model)
        patch.chdir(path)
        options = {"prompts": "prompts.txt", "num_steps": 1, "image_size": checkpoints.IMAGE_SIZE}
        calibzarr.build("a.zarr", model="sd3-medium", **options)
        calibzarr.collect("a.zarr", num_images=1)
        measure(path / "a.zarr", images=1, probes=1)
        calibzarr.quantize("a.zarr", "out", **OPTIONS, t5=3)
        calibzarr.build("run.zarr", reference="a.zarr", model="out", images=(0, 1))
    yield path, model
    shutil.rmtree(HUB, ignore_errors=True)


@pytest.fixture
def copy(place, tmp_path, monkeypatch):
    """A copy to work in."""
    path, model = place
    shutil.copytree(path, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(registry, "load", lambda name: model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_with_its_t5_is_built_and_compared(copy):
    calibzarr.build("run.zarr", resume=True)
    without = calibzarr.quantize("a.zarr", "without", **OPTIONS)
    calibzarr.build("without.zarr", reference="a.zarr", model="without")
    found, other = calibzarr.compare("a.zarr", ["run.zarr", "without.zarr"]).runs
    assert found.teacher_forced.output_sqnr.value != other.teacher_forced.output_sqnr.value
    assert (found.pictures.psnr_db != other.pictures.psnr_db).all()
    assert without.t5 is None
    assert not (copy / "without" / "t5.safetensors").exists()
    assert "t5_quantization" not in json.loads((copy / "without" / "config.json").read_text())
    weights = ((copy / name / "model.safetensors").read_bytes() for name in ("out", "without"))
    assert len({*weights}) == 1


def test_layers_that_stay_and_memory_are_told(copy):
    card = (copy / "out" / "README.md").read_text()
    assert f"T5: 5 linear layers of 3 bits in groups of 64; {', '.join(KEPT)} stay" in card
    size = (copy / "out" / "t5.safetensors").stat().st_size
    assert f"t5_encoder {size / 1e6:.3g} MB" in card


def test_a_changed_t5_is_refused_on_resume(copy):
    with (copy / "out" / "t5.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    before = snapshot(copy)
    with pytest.raises(StoreError, match="is not the checkpoint that the run was begun with"):
        calibzarr.build("run.zarr", resume=True)
    assert snapshot(copy) == before

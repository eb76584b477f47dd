"""Runs of quantized checkpoints: built, gone on with, compared, refused."""

import json
import shutil

import numpy as np
import pytest

import calibzarr
from calibzarr.errors import OptionError, StoreError
from calibzarr.models import registry
from calibzarr.models.builtin import load_checkpoint
from calibzarr.models.quantized.layout import sha256
from calibzarr.sampling import models
from calibzarr.sampling.sampler import euler_states
from calibzarr.storage.manifest import read_root
from tests.support.quantized_checkpoints import choice_of, write
from tests.support.stores import open_strictly, snapshot

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture(scope="module")
def reference(make_store):
    return make_store(num_images=3, num_steps=3, seed=7, cfg_weight=2.5)


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "out"
    config = {"model": "tiny", "model_fingerprint": tiny.fingerprint}
    return write(path, tiny, choice_of(tiny, ((64, 4),)), config)


@pytest.fixture(scope="module")
def whole(tiny, reference, checkpoint, tmp_path_factory):
    """A run, uninterrupted."""
    path = tmp_path_factory.mktemp("run") / "q4.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load", lambda name: tiny)
        calibzarr.build(path, reference=reference, model=checkpoint)
    return path


def test_a_run_holds_what_the_checkpoint_samples(whole, reference, tiny, checkpoint):
    run, full = open_strictly(whole), calibzarr.open_store(reference)
    model, schedule = load_checkpoint(checkpoint), tiny.schedule(3)
    for image in range(3):
        conditioning = model.encode([str(full.prompt.values[image])], 2.5)
        states = euler_states(model, conditioning, schedule, [7 + image], 64)
        expected = np.concatenate([model.to_numpy(state) for state in states])
        np.testing.assert_array_equal(run.latents[image], expected)
        assert (run.latents[image, -1] != full.latents[image, -1]).all()
    about = run.attrs["quantized"]
    assert about == {"kind": "checkpoint", "sha256": sha256(checkpoint), "path": str(checkpoint)}
    assert run.attrs["model_fingerprint"] == tiny.fingerprint


def test_a_run_in_parts_is_the_same(whole, reference, checkpoint, tmp_path):
    path = tmp_path / "q4.zarr"
    calibzarr.build(path, reference=reference, quantized=checkpoint, images=(0, 1))
    calibzarr.build(path, resume=True)
    expected, actual = (
        {name: digest for name, digest in snapshot(store).items() if name.startswith("latents/c")}
        for store in (whole, path)
    )
    assert actual == expected
    assert calibzarr.verify(path, model=True).ok


def test_compare_judges_it(whole, reference):
    found = calibzarr.compare(reference, whole)
    assert "psnr" in str(found).lower()


def test_a_changed_checkpoint_is_refused(whole, checkpoint, tiny, tmp_path):
    root = read_root(whole)
    attributes = json.loads(json.dumps(dict(root.attributes)))
    copy = tmp_path / "out"
    shutil.copytree(checkpoint, copy)
    attributes["quantized"]["path"] = str(copy)
    from dataclasses import replace

    moved = replace(root, attributes=attributes)
    assert models.load(moved, tiny).fingerprint == tiny.fingerprint
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    with pytest.raises(StoreError, match="is not the checkpoint"):
        models.load(moved, tiny)
    shutil.rmtree(copy)
    with pytest.raises(StoreError, match="is not the checkpoint"):
        models.load(moved, tiny)


def test_what_is_no_checkpoint_or_of_other_weights_is_refused(
    reference, checkpoint, tiny, tmp_path
):
    with pytest.raises(StoreError, match=r"no config\.json"):
        calibzarr.build(tmp_path / "a.zarr", reference=reference, model=tmp_path)
    config = {"model": "tiny", "model_fingerprint": "0" * 32}
    other = write(tmp_path / "other", tiny, choice_of(tiny, ((64, 4),)), config)
    with pytest.raises(StoreError, match="quantized from model_fingerprint '0000"):
        calibzarr.build(tmp_path / "a.zarr", reference=reference, model=other)
    with pytest.raises(
        OptionError, match="a checkpoint of calibzarr's, which runs beside a reference"
    ):
        calibzarr.build(tmp_path / "a.zarr", model=checkpoint)
    assert not (tmp_path / "a.zarr").exists()

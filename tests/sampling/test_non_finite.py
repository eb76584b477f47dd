"""Images with states that are infinite or NaN: named, not stored, and nobody else's loss."""

import numpy as np
import pytest

import calibzarr
from calibzarr.errors import NonFiniteError
from calibzarr.sampling import builder
from calibzarr.sampling.sampler import euler_states
from calibzarr.storage import store
from tests.support.stores import snapshot

pytestmark = pytest.mark.usefixtures("loaded_once")

SMALL = {"num_images": 5, "num_steps": 3, "image_size": 16, "batch_size": 2}


def replacing(seeds, step, value):
    """Euler's states, with a value in one place of a step's states of images with these seeds."""

    def states(model, conditioning, schedule, of_images, image_size):
        found = euler_states(model, conditioning, schedule, of_images, image_size)
        for index, state in enumerate(found):
            values = np.array(model.to_numpy(state))
            values[np.isin(of_images, seeds) & (index == step), 3, 1, 1] = value
            yield model.from_numpy(values)

    return states


def test_too_much_guidance_is_named_and_nothing_goes_on_for_ever(tmp_path, run):
    path = tmp_path / "a.zarr"
    options = ["--num-images", 9, "--num-steps", 2, "--image-size", 16, "--cfg-weight", 1e39]
    code, out, err = run("build", path, *options, "-q")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "Error: image 0 is not stored: its state 1 is not finite; likely the guidance" in err
    assert "weight of 1e+39 is too large; build another store with --cfg-weight 3.0 or so" in err
    assert f"complete and stay; build those after it with: calibzarr build {path} --resume" in err
    assert not store.completed(path, 9).any()
    assert calibzarr.verify(path).ok
    before = snapshot(path)
    assert run("repair", path)[0] == 0
    assert run("build", path, "--resume", "-q") == (1, "", err)
    assert snapshot(path) == before


def test_other_images_of_the_batch_are_stored_and_a_resume_completes(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    whole = tmp_path / "whole.zarr"
    calibzarr.build(whole, **SMALL)
    monkeypatch.setattr(builder, "euler_states", replacing([1, 4], 2, np.nan))
    message = r"image 1 is not stored: its state 2 is not finite \(likewise: 4\); .*3 of 5 images"
    with pytest.raises(NonFiniteError, match=message):
        calibzarr.build(path, **SMALL)
    assert store.completed(path, 5).tolist() == [True, False, True, True, False]
    monkeypatch.undo()
    assert calibzarr.build(path, resume=True).built == 2
    files = {name: sha for name, sha in snapshot(whole).items() if "/c" in name}
    assert {name: sha for name, sha in snapshot(path).items() if "/c" in name} == files


def test_what_float16_cannot_hold_asks_for_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "euler_states", replacing([0], 3, 7e4))
    expected = "state 3 is not finite; it reaches 7e.04, .* latent_dtype='float32'; 4 of 5"
    with pytest.raises(NonFiniteError, match=expected):
        calibzarr.build(tmp_path / "half.zarr", latent_dtype="float16", **SMALL)
    assert calibzarr.build(tmp_path / "full.zarr", **SMALL).n_completed == 5

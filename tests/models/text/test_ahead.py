import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import calibzarr
from calibzarr.models import registry
from calibzarr.models.diffusionkit import DiffusionKitModel
from calibzarr.models.text.ahead import Encoder
from tests.support import checkpoints
from tests.support.numpy_model import Mixer

HUB = Path(os.environ["HF_HUB_CACHE"])
PROMPTS = ["a red circle", "a cat", "the lazy dog", "a red circle"]
CFG_WEIGHT = 4.5


@dataclass(frozen=True)
class Text:
    prompts: tuple
    nbytes: int = 10


class Unloading(Mixer):
    """Keeps a log of what it encodes, one by one, and of when its text encoder leaves memory."""

    unloads = True

    def __init__(self):
        super().__init__()
        self.log = []

    def encode(self, prompts, _):
        self.log += prompts
        return Text(tuple(prompts))

    def joined(self, conditionings):
        return [prompt for conditioning in conditionings for prompt in conditioning.prompts]

    def unload_text_encoder(self):
        self.log.append("unloaded")


def encoder(ahead, **options):
    model = Unloading()
    return model.log, Encoder(model, 0.0, None, ahead, **options)


def test_what_follows_is_encoded_together_as_far_as_it_fits():
    log, encode = encoder("abcdefg", most_bytes=30)
    for prompts in ("a", "b", "cc", "d", "ef", "g"):
        assert encode(list(prompts)) == list(prompts)
    assert "".join(log) == "abcunloadeddefunloadedgunloaded"


def test_what_fits_is_never_encoded_again_in_any_order():
    log, encode = encoder("abcd", most_bytes=40)
    for prompts in ("c", "da", "b", "c", "bd", "a"):
        assert encode(list(prompts)) == list(prompts)
    assert sorted("".join(log).replace("unloaded", "")) == sorted("abcd")


def test_what_nobody_expected_is_encoded_alone():
    log, encode = encoder("ab", most_bytes=30)
    assert encode(["x", "y"]) == ["x", "y"]
    assert encode(["a"]) == ["a"]
    assert log == ["x", "y", "unloaded", "a", "b", "unloaded"]


def test_a_batch_larger_than_what_fits_is_encoded_whole():
    log, encode = encoder("abcd", most_bytes=5)
    assert encode(list("abc")) == list("abc")
    assert log == [*"abc", "unloaded"]


def test_nothing_that_nobody_waits_for_is_encoded_where_it_is_not_to_go_on():
    answers = iter([True, False])
    log, encode = encoder("abcd", proceed=lambda: next(answers))
    assert encode(["a"]) == ["a"]
    assert log == ["a", "b", "unloaded"]


@pytest.fixture(scope="module")
def model():
    """A small SD3 with a T5."""
    checkpoints.write("sd3-medium", HUB)
    with pytest.MonkeyPatch.context() as monkeypatch:
        checkpoints.use_small_sizes(monkeypatch)
        yield registry.load("sd3-medium")
    shutil.rmtree(HUB)


def test_it_gives_what_the_model_gives_and_t5_is_read_again(model):
    expected = model.encode(PROMPTS[1:3], CFG_WEIGHT)
    encode = Encoder(model, CFG_WEIGHT, None, PROMPTS)
    for _ in range(2):
        found = encode(PROMPTS[1:3])
        assert model.pipeline.t5_encoder is None
        assert mx.array_equal(found.tokens, expected.tokens)
        assert mx.array_equal(found.pooled, expected.pooled)
    assert mx.array_equal(model.encode(PROMPTS[1:3], CFG_WEIGHT).tokens, expected.tokens)
    assert model.fingerprint == DiffusionKitModel("sd3-medium", model.pipeline).fingerprint


@pytest.mark.slow
def test_t5_is_not_held_while_others_work_and_only_what_is_missing_is_encoded(
    model, tmp_path, monkeypatch
):
    encoded, held = [], []
    encode_text, denoiser = model.pipeline.encode_text, DiffusionKitModel.denoiser

    def recording(prompt, *arguments):
        encoded.append(prompt)
        return encode_text(prompt, *arguments)

    def watched(self, *arguments, **options):
        held.append(self.pipeline.t5_encoder is not None)
        return denoiser(self, *arguments, **options)

    monkeypatch.setattr(registry, "load", lambda name: model)
    monkeypatch.setattr(model.pipeline, "encode_text", recording)
    monkeypatch.setattr(DiffusionKitModel, "denoiser", watched)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    path = tmp_path / "a.zarr"
    options = {"prompts": tmp_path / "prompts.txt", "num_steps": 1, "cfg_weight": CFG_WEIGHT}
    calibzarr.build(path, model="sd3-medium", image_size=64, **options, images=(0, 1))
    assert encoded == PROMPTS[:1]
    calibzarr.build(path, resume=True)
    assert encoded == [PROMPTS[0], *PROMPTS[1:]]
    encoded.clear()
    calibzarr.collect(path, num_images=1)
    assert encoded == PROMPTS[:1]
    next(calibzarr.layer_inputs(path, "context_embedder", images=[1]))
    assert calibzarr.verify(path, model=True).ok
    assert len(held) > 8
    assert not any(held)
    latents = calibzarr.open_store(path).latents.load()
    for image in (1, 3):
        alone = model.encode([PROMPTS[image]], CFG_WEIGHT)
        with denoiser(model, alone, model.schedule(1)) as denoise:
            state = model.from_numpy(latents.values[[image], 0])
            following = model.schedule(1).euler_step(state, denoise(state, 0), 0)
        np.testing.assert_array_equal(model.to_numpy(following)[0], latents.values[image, 1])

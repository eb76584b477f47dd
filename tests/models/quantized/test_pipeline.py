"""Pictures from DiffusionKit's own calls, on quantized checkpoints, against our sampler."""

import os
import shutil
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import calibzarr
from calibzarr.errors import StoreError
from calibzarr.models import registry
from calibzarr.models.diffusionkit import DiffusionKitModel
from calibzarr.models.loading.mmdit import empty_copy
from calibzarr.models.quantized.layout import read_config
from calibzarr.sampling.sampler import euler_states
from tests.support import checkpoints
from tests.support.quantized_checkpoints import choice_of, write

HUB = Path(os.environ["HF_HUB_CACHE"])
PROMPTS = ("a red circle", "a large blue square", "two cats")
CFG_WEIGHT = {"tiny": 3.0, "sd3-medium": 4.5, "flux-dev": 0.0}
EXTENT = 8
SETTINGS = ((32, 4), (64, 6), (32, 3), (64, 8), (32, 5))


@pytest.fixture(scope="module", params=list(CFG_WEIGHT))
def written(request, tmp_path_factory):
    """A model's name and a quantized checkpoint of it, of small sizes."""
    path = tmp_path_factory.mktemp("checkpoint") / "out"
    with pytest.MonkeyPatch.context() as monkeypatch:
        if request.param != "tiny":
            checkpoints.write(request.param, HUB)
            checkpoints.use_small_sizes(monkeypatch)
        model = registry.load(request.param)
        yield request.param, write(path, model, choice_of(model, SETTINGS))
    shutil.rmtree(HUB, ignore_errors=True)


@pytest.fixture
def pipeline(written):
    return calibzarr.load_pipeline(written[1])


def ours(name, path, prompt, seed, num_steps):
    """Final latents, and the picture, of our sampler on a pipeline of its own."""
    model = DiffusionKitModel(name, calibzarr.load_pipeline(path))
    schedule = model.schedule(num_steps)
    conditioning = model.encode([prompt], CFG_WEIGHT[name])
    *_, final = euler_states(model, conditioning, schedule, [seed], 8 * EXTENT)
    latents = model.to_numpy(final)[0]
    return latents, model.decode(latents)


def test_three_pictures_of_generate_image_equal_those_of_our_sampler(written, pipeline, capsys):
    name, path = written
    for seed, (prompt, num_steps) in enumerate(zip(PROMPTS, (3, 2, 4), strict=True)):
        picture, _ = pipeline.generate_image(
            prompt,
            num_steps=num_steps,
            cfg_weight=CFG_WEIGHT[name],
            latent_size=(EXTENT, EXTENT),
            seed=seed,
        )
        expected = ours(name, path, prompt, seed, num_steps)[1]
        np.testing.assert_array_equal(np.array(picture), expected)
        assert expected.std() > 5


def test_three_calls_of_denoise_latents_equal_our_sampler(written, pipeline):
    name, path = written
    model = DiffusionKitModel(name, calibzarr.load_pipeline(path))
    for seed, (prompt, num_steps) in enumerate(zip(PROMPTS, (3, 2, 4), strict=True)):
        conditioning = model.encode([prompt], CFG_WEIGHT[name])
        latents, _ = pipeline.denoise_latents(
            conditioning.tokens,
            conditioning.pooled,
            num_steps=num_steps,
            cfg_weight=CFG_WEIGHT[name],
            latent_size=(EXTENT, EXTENT),
            seed=seed,
        )
        expected = model.from_numpy(ours(name, path, prompt, seed, num_steps)[0][None])
        assert mx.array_equal(latents, pipeline.latent_format.process_out(expected))


def test_a_weight_is_scale_times_level_plus_bias(written, pipeline):
    """What MLX's own quantized layers compute, within what float32 rounds."""
    _, path = written
    mmdit = empty_copy(pipeline.mmdit)
    quantization = read_config(path)["quantization"]
    nn.quantize(mmdit, class_predicate=lambda path, _: quantization.get(path, False))
    mmdit.load_weights(str(path / "model.safetensors"))
    modules, dense = dict(mmdit.named_modules()), dict(pipeline.mmdit.named_modules())
    compared = 0
    for module_path, module in modules.items():
        if isinstance(module, nn.QuantizedLinear):
            width = module.scales.shape[1] * module.group_size
            x = mx.array(np.random.default_rng(0).standard_normal((4, width)).astype(np.float32))
            np.testing.assert_allclose(
                np.asarray(dense[module_path](x)), np.asarray(module(x)), rtol=1e-4, atol=1e-4
            )
            compared += 1
    assert compared > 20


def test_other_directories_and_damage_are_refused(written, tmp_path):
    _, path = written
    with pytest.raises(StoreError, match=r"no config\.json"):
        calibzarr.load_pipeline(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        calibzarr.load_pipeline(copy)
    shutil.copy(path / "config.json", copy)
    (copy / "model.safetensors").write_bytes(b"short")
    with pytest.raises(StoreError, match="damaged"):
        calibzarr.load_pipeline(copy)

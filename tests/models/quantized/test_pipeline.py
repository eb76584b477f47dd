"""Pictures from DiffusionKit's own calls, on quantized checkpoints, against our sampler."""

import json
import os
import shutil
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import calibzarr
from calibzarr.errors import StoreError
from calibzarr.models import registry
from calibzarr.models.compatibility import metal_names
from calibzarr.models.diffusionkit import DiffusionKitModel, kit
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
T5_BITS = 3
IDS = [[5, 9, 33, 1, 0]]


@pytest.fixture(scope="module", params=list(CFG_WEIGHT))
def written(request, tmp_path_factory):
    """A model's name and a quantized checkpoint of it, of small sizes."""
    path = tmp_path_factory.mktemp("checkpoint") / "out"
    with pytest.MonkeyPatch.context() as monkeypatch:
        if request.param != "tiny":
            checkpoints.write(request.param, HUB)
            checkpoints.use_small_sizes(monkeypatch)
        model = registry.load(request.param)
        t5 = T5_BITS if model.t5() else None
        yield request.param, write(path, model, choice_of(model, SETTINGS), t5=t5)
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


def unpacked(packed, scales, biases, bits):
    """A weight from the file's integers, bit by bit: the first is the lowest of the first word."""
    shifts = np.arange(32, dtype=np.uint32)
    stream = (packed[:, :, None] >> shifts & 1).reshape(len(packed), -1, bits)
    level = (stream << np.arange(bits, dtype=np.uint32)).sum(axis=-1)
    level = level.reshape(*scales.shape, -1).astype(np.float32)
    return (level * scales[..., None] + biases[..., None]).reshape(len(packed), -1)


def test_t5_is_the_one_of_its_file(written, monkeypatch):
    """Its embeddings are those of a T5 whose float layers have the file's weights."""
    name, path = written
    if name == "tiny":  # has none
        return
    entry = json.loads((path / "config.json").read_text())["t5_quantization"]
    stored = mx.load(str(path / "t5.safetensors"))
    plain = checkpoints.modules(name)["t5_encoder"]
    plain.set_dtype(mx.bfloat16 if name == "flux-dev" else mx.float16)
    with metal_names():
        unquantized = np.asarray(plain(mx.array(IDS)).astype(mx.float32))
        kept, weights, linear = [], {}, nn.Linear.__call__

        def in_float32(layer, x):
            if id(layer) not in weights:
                return linear(layer, x)
            return (x.astype(mx.float32) @ weights[id(layer)].T).astype(x.dtype)

        for layer_path, layer in plain.named_modules():
            if not isinstance(layer, nn.Linear):
                continue
            if entry[layer_path] is False:
                kept.append(layer.weight.shape[1])
                continue
            assert entry[layer_path] == {"group_size": 64, "bits": T5_BITS}
            parts = (stored[f"{layer_path}.{part}"] for part in ("weight", "scales", "biases"))
            packed, *ends = parts
            ends = [np.asarray(end.astype(mx.float32)) for end in ends]
            weights[id(layer)] = mx.array(unpacked(np.asarray(packed), *ends, T5_BITS))
        with monkeypatch.context() as patch:
            patch.setattr(nn.Linear, "__call__", in_float32)
            expected = np.asarray(plain(mx.array(IDS)).astype(mx.float32))
        monkeypatch.setattr(kit.model_io, "load_t5_encoder", None)  # float weights are not loaded
        monkeypatch.setattr(kit, "load_t5_encoder", None)
        actual = calibzarr.load_pipeline(path).t5_encoder(mx.array(IDS)).astype(mx.float32)
    assert kept == [16, 16]
    np.testing.assert_array_equal(np.asarray(actual), expected)
    assert np.abs(unquantized - expected).max() > 0.1 * np.abs(expected).max()


def test_packed_weights_of_t5_are_those_of_mlx(written):
    name, path = written
    if name == "tiny":
        assert not (path / "t5.safetensors").exists()
        return
    dtype = mx.bfloat16 if name == "flux-dev" else mx.float16
    plain = checkpoints.modules(name)["t5_encoder"]
    plain.set_dtype(dtype)
    expected = dict(tree_flatten(plain.parameters()))
    for layer_path, layer in plain.named_modules():
        if isinstance(layer, nn.Linear) and layer.weight.shape[1] % 64 == 0:
            parts = mx.quantize(layer.weight, group_size=64, bits=T5_BITS)
            for part, value in zip(("weight", "scales", "biases"), parts, strict=True):
                expected[f"{layer_path}.{part}"] = value
    stored = mx.load(str(path / "t5.safetensors"))
    assert stored.keys() == expected.keys()
    for key, value in expected.items():
        assert stored[key].dtype == value.dtype
        assert mx.array_equal(stored[key], value), key


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

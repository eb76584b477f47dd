"""Weights of one's own, on small checkpoints in Hugging Face's cache."""

import os
import shutil
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from calibzarr.models import registry
from calibzarr.models.loading import sources
from tests.support import checkpoints

HUB = Path(os.environ["HF_HUB_CACHE"])


@pytest.fixture
def hub(monkeypatch):
    """A cache that has flux-dev and sd3.5-large."""
    for name in ("flux-dev", "sd3.5-large"):
        checkpoints.write(name, HUB)
    checkpoints.use_small_sizes(monkeypatch)
    yield HUB
    shutil.rmtree(HUB)


def parameters(module):
    return {name: np.array(v.astype(mx.float32)) for name, v in tree_flatten(module.parameters())}


@pytest.mark.parametrize("name", ["flux-dev", "sd3.5-large"])
def test_memory_of_a_batch_is_that_of_the_loaded_model(hub, name):
    assert hub.is_dir()
    sizes = 4, 64, 3
    expected = registry.load(name).batch_bytes(*sizes, guided=True)
    assert registry.find(name).batch_bytes(*sizes, guided=True) == expected


def test_a_fine_tune_is_a_model_of_its_own(hub, tmp_path, monkeypatch):
    plain = registry.load("flux-dev")
    repository, file = registry.find("flux-dev").files[0]
    weights = mx.load(str(checkpoints.snapshot(hub, repository) / file))
    weights["single_blocks.1.linear1.weight"] = weights["single_blocks.1.linear1.weight"] + 1
    mx.save_safetensors(str(tmp_path / "tuned.safetensors"), weights)
    monkeypatch.chdir(tmp_path)
    tuned = registry.load("tuned.safetensors")
    assert tuned.name == str(tmp_path / "tuned.safetensors")
    assert tuned.fingerprint != plain.fingerprint
    before, after = parameters(plain.pipeline.mmdit), parameters(tuned.pipeline.mmdit)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    block = "unified_transformer_blocks.1.transformer_block"
    projections = [f"attn.{part}_proj" for part in "qkv"]
    assert changed == {f"{block}.{part}.weight" for part in (*projections, "mlp.fc1")}
    monkeypatch.chdir("/")
    again = registry.load(tuned.name)
    assert again.fingerprint == tuned.fingerprint
    (tmp_path / "tuned.safetensors").write_bytes(b"")
    mx.save_safetensors(
        str(tmp_path / "tuned.safetensors"),
        {**weights, "img_in.bias": mx.zeros(3)},
    )
    with pytest.raises(ValueError, match=r"not of flux-dev: its x_embedder\.proj\.bias has shape"):
        registry.load(tuned.name)


def test_a_quantized_checkpoint_of_diffusionkits_has_its_levels(hub, tmp_path):
    """Four bits of each number, times scale, plus bias, unpacked here in NumPy."""
    plain = registry.load("sd3.5-large")
    mmdit = checkpoints.modules("sd3.5-large")["mmdit"]
    for module in mmdit.modules():
        if "k_proj" in module:
            del module.k_proj["bias"]  # as DiffusionKit has it
    nn.quantize(
        mmdit, class_predicate=lambda _, m: isinstance(m, nn.Linear) and m.weight.shape[1] % 64 == 0
    )
    transformer = dict(tree_flatten(mmdit.parameters()))
    decoder = dict(tree_flatten(plain.pipeline.decoder.parameters()))
    encoder = dict(tree_flatten(plain.pipeline.encoder.parameters()))
    weights = {
        **{sources.SD3_PREFIX + name: value for name, value in transformer.items()},
        **{f"first_stage_model.decoder.{name}": value for name, value in decoder.items()},
        **{f"first_stage_model.encoder.{name}": value for name, value in encoder.items()},
    }
    mx.save_safetensors(str(tmp_path / "4bit.safetensors"), weights)
    model = registry.load(str(tmp_path))
    assert registry.find(str(tmp_path)).files == tuple(
        pair for pair in registry.find("sd3.5-large").files if "3.5" not in pair[0]
    )
    assert model.fingerprint != plain.fingerprint
    found, compared = parameters(model.pipeline.mmdit), 0
    for name, packed in transformer.items():
        if packed.dtype == mx.uint32:
            levels = np.array(packed)[..., None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15
            ends = (transformer[name.replace("weight", f"{e}")] for e in ("scales", "biases"))
            scale, bias = (np.array(end.astype(mx.float32))[..., None] for end in ends)
            grid = scale * levels.reshape(*scale.shape[:2], 64) + bias
            expected = grid.reshape(len(grid), -1)
            np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-4)
            compared += 1
    assert compared > 20
    assert not any(np.any(found[name]) for name in found if name.endswith("k_proj.bias"))
    for name, value in parameters(plain.pipeline.decoder).items():
        np.testing.assert_array_equal(parameters(model.pipeline.decoder)[name], value)

"""The transformers, on small checkpoints in the original names, against the published formulas."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from calibzarr.models.diffusionkit import kit
from calibzarr.models.loading import mmdit
from calibzarr.models.loading.pipelines import renamed
from calibzarr.models.modulation import cached_modulation
from calibzarr.models.observation import patched
from calibzarr.models.transformer import observable_layers
from tests.support import checkpoints, published

ROWS, EXTENT, TOKENS = 2, 8, 5
TIMESTEP = 625.0
GUIDANCE = np.array([3.5, 1.25])


def written(name):
    """Weights of a small checkpoint by their original names, as NumPy arrays and as loaded."""
    module = checkpoints.modules(name)["mmdit"]
    is_flux = name.startswith("flux")
    weights = checkpoints.flux_weights(module) if is_flux else checkpoints.sd3_weights(module)
    prefix = "" if is_flux else "model.diffusion_model."
    config = checkpoints.MMDIT_CONFIGS[name]
    wide = {prefix + key: value.astype(mx.float32) for key, value in weights.items()}
    transformer = mmdit.Transformer(replace(config, dtype=mx.float32))
    transformer.load_weights(list(renamed(wide, config).items()))
    return {key: np.array(value.astype(mx.float32)) for key, value in weights.items()}, transformer


def velocity(transformer, latents, tokens, pooled, dtype=mx.float32):
    """Of NumPy arrays, rows of a batch, shape (row, channel, height, width)."""
    images, texts, told = (mx.array(array).astype(dtype) for array in (latents, tokens, pooled))
    timesteps = mx.array([TIMESTEP]).astype(dtype)
    with cached_modulation(transformer, told, timesteps):
        arguments = images.transpose(0, 2, 3, 1), texts[:, :, None]
        found = transformer(*arguments, mx.broadcast_to(timesteps, (len(told),)))
    return np.array(found).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("name", [name for name in mmdit.CONFIGS if name != "sd3-medium"])
def test_the_velocity_is_that_of_the_published_formulas(name):
    weights, transformer = written(name)
    config = transformer.config
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((ROWS, 16, EXTENT, EXTENT))
    tokens = rng.standard_normal((ROWS, TOKENS, 4096))
    pooled = rng.standard_normal((ROWS, config.pooled_text_embed_dim))
    inputs = latents, tokens, pooled
    timestep = np.full(ROWS, TIMESTEP)
    if name == "sd3.5-large":
        expected = published.sd3(weights, config.num_heads, *inputs, timestep)
    else:
        guidance = (GUIDANCE,) if name == "flux-dev" else ()
        axes = config.rope_axes_dim
        expected = published.flux(
            weights, config.num_heads, axes, *inputs, timestep / 1000, *guidance
        )
        pooled = np.concatenate([pooled, *(g[:, None] for g in guidance)], axis=1)
    found = velocity(transformer, latents, tokens, pooled)
    error = 2e-4 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=error)
    for module in transformer.modules():
        if isinstance(module, kit.mmdit.Attention):
            module.k_proj.bias = mx.zeros_like(module.k_proj.bias)  # as DiffusionKit has it
    without = velocity(transformer, latents, tokens, pooled)
    assert np.abs(without - expected).max() > 50 * error


def test_float16_is_left_in_no_block_but_those_that_are_to_be_float32():
    transformer = checkpoints.modules("sd3.5-large")["mmdit"]
    names = {id(module): name for name, module in transformer.named_modules()}
    seen = {}

    def linear_call(original, module, x):
        seen.setdefault(names[id(module)], set()).add(x.dtype)
        return original(module, x)

    inputs = (np.ones((1, width, *rest)) for width, *rest in ((16, 8, 8), (TOKENS, 4096)))
    with patched(nn.Linear, linear_call):
        found = velocity(transformer, *inputs, np.ones((1, 80)), mx.float16)
    assert found.dtype == np.float16
    assert len(seen) == len(observable_layers(transformer)) - 3  # outputs of blocks
    for name, dtypes in seen.items():
        is_wide = ".1." in name and "adaLN" not in name and "layers" not in name
        assert dtypes == {mx.float32 if is_wide else mx.float16}, name

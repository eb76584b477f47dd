"""DiffusionKit's transformer with what it leaves out of the published models."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from calibzarr.models.compatibility import import_diffusionkit
from calibzarr.models.observation import patched

kit: Any = import_diffusionkit()

CONFIGS = {  # by name of the model
    "sd3-medium": kit.config.SD3_2b,
    "sd3.5-large": replace(kit.config.SD3_8b, dtype=mx.float16, float16_dtype=mx.float16),
    "flux-schnell": kit.config.FLUX_SCHNELL,
    "flux-dev": kit.config.FLUX_DEV,
}

_TIME_FACTOR = 1000.0  # what a guidance is multiplied by, as a time is


class Transformer(kit.mmdit.MMDiT):
    """DiffusionKit's MMDiT, nearer to the published models.

    The bias of k is redundant under softmax alone: where q and k are normalized before, k has it.
    A model with a guidance embedding is told of the guidance, in the last column of the pooled
    text embeddings; its embedding is added to those of the time and the text. Blocks that the
    configuration names are computed in float32, which float16 does not reach.

    Args:
        config: of DiffusionKit's.
    """

    def __init__(self, config: Any) -> None:
        config = replace(config, low_memory_mode=False)  # broken on recent MLX
        super().__init__(config)
        self.is_guided = config.guidance_embed
        # DiffusionKit's call would put an embedding of the time in the place of the time.
        self.config = replace(config, guidance_embed=False)
        if config.use_qk_norm:
            for module in self.modules():
                if isinstance(module, kit.mmdit.Attention):
                    module.k_proj.bias = mx.zeros(module.k_proj.weight.shape[0])
        for number in config.upcast_multimodal_blocks or ():
            self.multimodal_transformer_blocks[number].__class__ = _Float32Block

    def empty_copy(self) -> "Transformer":
        """A transformer of the same sizes, whose weights nobody has computed."""
        return Transformer(replace(self.config, guidance_embed=self.is_guided))

    def cache_modulation_params(self, pooled: mx.array, timesteps: mx.array) -> None:
        """Compute adaLN's outputs for every timestep, and empty its weights, as DiffusionKit does.

        Args:
            pooled: shape (row, feature): text embeddings, and the guidance of a guided model.
            timesteps: shape (step,).
        """
        if not self.is_guided:
            super().cache_modulation_params(pooled, timesteps)
            return
        embedding = self.guidance_in(guidance_frequencies(pooled[:, -1], self.config))

        def text_call(original: Callable[..., mx.array], module: nn.Module, y: mx.array) -> Any:
            return original(module, y) + embedding

        with patched(kit.mmdit.PooledTextEmbeddingAdapter, text_call):
            super().cache_modulation_params(pooled[:, :-1], timesteps)


class _Float32Block(kit.mmdit.MultiModalTransformerBlock):
    """A block that computes in float32, whatever its weights are in."""

    def __call__(self, image: mx.array, text: mx.array, *args: Any, **kwargs: Any) -> Any:
        wide = image.astype(mx.float32), text.astype(mx.float32)
        streams = super().__call__(*wide, *args, **kwargs)
        return tuple(None if s is None else s.astype(image.dtype) for s in streams)


def guidance_frequencies(guidance: mx.array, config: Any) -> mx.array:
    """Cosines and sines of a guidance, shape (row, feature), as FLUX.1 has them.

    Args:
        guidance: shape (row,), in the dtype that the result is rounded to.
        config: of the transformer.
    """
    half = config.frequency_embed_dim // 2
    exponents = mx.arange(half, dtype=mx.float32) / half
    angles = (_TIME_FACTOR * guidance).astype(mx.float32)[:, None] * config.max_period**-exponents
    return mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1).astype(guidance.dtype)


def empty(model: str) -> Transformer:
    """The transformer of a model, whose weights nobody has computed."""
    return Transformer(CONFIGS[model])


def empty_copy(mmdit: nn.Module) -> Transformer:
    """A transformer of the sizes of another, whose weights nobody has computed."""
    return mmdit.empty_copy() if isinstance(mmdit, Transformer) else Transformer(mmdit.config)

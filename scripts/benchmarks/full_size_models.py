"""SD3-medium's and FLUX-schnell's own transformers and decoder, with weights that are drawn."""

import hashlib
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from calibzarr.models.builtin import MODELS
from calibzarr.models.diffusionkit import DiffusionKitModel, kit
from calibzarr.models.tiny import WordTokenizer, vocabulary

_CLIP_TOKENS, _T5_TOKENS = 77, 256
_SMALL_VAE = {"block_out_channels": (8, 16, 32, 32), "resnet_groups": 4}
_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}

_CONFIGS: dict[str, Any] = {
    "sd3-medium": kit.config.SD3_2b,
    "flux-schnell": replace(kit.config.FLUX_SCHNELL, depth_multimodal=4, depth_unified=8),
}
_SMALL = {  # that show that the benchmark works
    "sd3-medium": {"num_heads": 2, "depth_multimodal": 2, "hidden_size_override": 128},
    "flux-schnell": {
        "num_heads": 2,
        "depth_multimodal": 1,
        "depth_unified": 1,
        "hidden_size_override": 128,
        "rope_axes_dim": (16, 24, 24),
    },
}


class _Sd3Pipeline(kit.DiffusionPipeline):
    """DiffusionKit's pipeline without files: text encoders of two layers, 154 text tokens."""

    def __init__(self, name: str, dtype: mx.Dtype, *, small: bool) -> None:
        self.float16_dtype = mx.float16
        self.dtype = self.activation_dtype = dtype
        self.use_t5, self.use_clip_g, self.low_memory_mode = False, True, False
        self.model_version = MODELS[name].repository
        self.sampler = kit.sampler.ModelSamplingDiscreteFlow(shift=3.0)
        self.latent_format = kit.SD3LatentFormat()
        chosen = _SMALL[name] if small else {}
        config = replace(_CONFIGS[name], dtype=dtype, low_memory_mode=False, **chosen)
        self.mmdit = kit.mmdit.MMDiT(config)
        self.decoder = kit.vae.VAEDecoder(**(_SMALL_VAE if small else {}))
        self.clip_l = _clip(768)
        self.tokenizer_l = _tokenizer(pad_with_eos=True)
        if config.pooled_text_embed_dim > 768:
            self.clip_g = _clip(config.pooled_text_embed_dim - 768)
            self.tokenizer_g = _tokenizer(pad_with_eos=False)
        for module in (self.mmdit, self.decoder):
            module.set_dtype(dtype)

    def check_and_load_models(self) -> None:
        """Everything is made from the start."""


class _FluxPipeline(_Sd3Pipeline):
    """The same for FLUX, with 256 text tokens that are drawn, for T5 alone has 9.5 GB."""

    def __init__(self, name: str, dtype: mx.Dtype, *, small: bool) -> None:
        super().__init__(name, dtype, small=small)
        self.float16_dtype = mx.bfloat16
        self.use_clip_g = False
        self.sampler = kit.sampler.FluxSampler(shift=1.0)
        self.latent_format = kit.FluxLatentFormat()

    def encode_text(
        self,
        text: str,
        cfg_weight: float = 0.0,  # noqa: ARG002 - as DiffusionKit calls it
        negative_text: str = "",  # noqa: ARG002
    ) -> tuple[mx.array, mx.array]:
        """Tokens that follow from the text alone, and what CLIP makes of it."""
        tokens = self._tokenize(self.tokenizer_l, text, None)
        key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
        drawn = mx.random.normal((1, _T5_TOKENS, 4096), key=mx.random.key(key))
        return drawn, self.clip_l(tokens[:1]).pooled_output


def _clip(width: int) -> nn.Module:
    return kit.clip.CLIPTextModel(
        kit.config.CLIPTextModelConfig(
            num_layers=2,
            model_dims=width,
            num_heads=4,
            max_length=_CLIP_TOKENS,
            vocab_size=len(vocabulary()),
            projection_dim=width,
        )
    )


def _tokenizer(*, pad_with_eos: bool) -> WordTokenizer:
    tokenizer = WordTokenizer(pad_with_eos=pad_with_eos)
    tokenizer.max_length = _CLIP_TOKENS
    return tokenizer


def load(name: str, dtype: str, *, small: bool) -> DiffusionKitModel:
    """Make a model; the same every time.

    Args:
        name: ``sd3-medium`` or ``flux-schnell``, the latter with 4 blocks of two streams and 8 of
            one.
        dtype: of weights and activations.
        small: a few layers of little width instead.
    """
    mx.random.seed(0)
    pipeline_class = _FluxPipeline if name.startswith("flux") else _Sd3Pipeline
    pipeline = pipeline_class(name, _DTYPES[dtype], small=small)
    for module in (pipeline.mmdit, pipeline.decoder):
        for _, value in tree_flatten(module.parameters()):
            mx.eval(value)  # one by one: a half precision's float32 would take twice the memory
    mx.clear_cache()
    return DiffusionKitModel(name, pipeline)

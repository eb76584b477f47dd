"""DiffusionKit's pipelines on transformers of :mod:`calibzarr.models.loading.mmdit`."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from calibzarr.models.compatibility import import_diffusionkit, lenient_updates, offline
from calibzarr.models.loading import mmdit
from calibzarr.models.loading.architectures import FLUX_SHIFT, GUIDANCE, SD3_SHIFT, is_flux
from calibzarr.models.loading.sources import SD3_PREFIX
from calibzarr.models.text.tokenizers import replace_clip_tokenizers
from calibzarr.quantization.quantizers import on_levels

kit: Any = import_diffusionkit()
logger = logging.getLogger(__name__)

_GROUP_SIZE = 64  # of DiffusionKit's quantized checkpoints: what MLX takes where nothing is said


class OwnTransformer:
    """What our pipelines do otherwise than DiffusionKit's; stands before one of those.

    Attributes:
        architecture: name of the model in ``mmdit.CONFIGS``.
        file: the transformer's weights.
        guidance: what a guided model is told that is not told another.
    """

    architecture: str
    file: Path
    guidance = GUIDANCE
    mmdit: nn.Module
    dtype: mx.Dtype
    activation_dtype: mx.Dtype

    def load_mmdit(
        self,
        only_modulation_dict: bool = False,  # noqa: FBT001, FBT002 - as DiffusionKit has it
    ) -> Any:
        """Build the transformer; or give adaLN's arrays, which DiffusionKit empties."""
        if not only_modulation_dict:
            self.mmdit = self.empty_mmdit()
            self.fill(self.mmdit)
            self._modulation = [
                (path, array)
                for path, array in tree_flatten(self.mmdit.parameters())
                if "adaLN" in path
            ]
        return self._modulation if only_modulation_dict else None

    def empty_mmdit(self) -> nn.Module:
        """The transformer, whose weights nobody has computed."""
        return mmdit.empty(self.architecture)

    def fill(self, transformer: nn.Module) -> None:
        """Give the transformer its weights.

        Raises:
            ValueError: if the file does not have them.
        """
        try:
            weights: Any = mx.load(str(self.file))
        except RuntimeError as error:
            raise ValueError(f"{self.file} cannot be read: {error}") from error
        named = renamed(weights, transformer.config)
        expected: dict[str, mx.array] = dict(tree_flatten(transformer.parameters()))
        if missing := sorted(expected.keys() - named.keys()):
            raise ValueError(
                f"{self.file} lacks {len(missing)} parameters of {self.architecture}, the first "
                f"is {missing[0]}"
            )
        if unused := sorted(named.keys() - expected.keys()):
            logger.info("%s: no use for %s", self.file, ", ".join(unused))
        for name, array in expected.items():
            if named[name].shape != array.shape:
                raise ValueError(
                    f"{self.file} is not of {self.architecture}: its {name} has shape "
                    f"{named[name].shape}, not {array.shape}"
                )
        transformer.load_weights([(name, named[name].astype(self.dtype)) for name in expected])

    def set_up_t5(self) -> None:
        """Load T5 and its tokenizer, where they are not loaded."""
        if getattr(self, "t5_encoder", None) is None:
            self.t5_encoder = self.load_t5()
        super().set_up_t5()  # type: ignore[misc]

    def load_t5(self) -> nn.Module:
        """Read the float T5; its arrays are computed when they are used.

        Raises:
            ValueError: if the file does not have all of them.
        """
        float16 = self.dtype != mx.float32
        with lenient_updates():
            t5: nn.Module = kit.model_io.load_t5_encoder(float16=float16, low_memory_mode=False)
        return t5

    def encode_text(self, *arguments: Any, **options: Any) -> tuple[mx.array, mx.array]:
        """DiffusionKit's; the guidance, of a guided model, stands behind the pooled embeddings."""
        tokens, pooled = super().encode_text(*arguments, **options)  # type: ignore[misc]
        if getattr(self.mmdit, "is_guided", False):
            guidance = mx.full((len(pooled), 1), self.guidance, dtype=self.activation_dtype)
            pooled = mx.concatenate([pooled.astype(self.activation_dtype), guidance], axis=1)
        return tokens, pooled


class SD3Pipeline(OwnTransformer, kit.DiffusionPipeline):
    """Stable Diffusion 3 and 3.5."""


class FluxPipeline(OwnTransformer, kit.FluxPipeline):
    """FLUX.1."""


def load(
    architecture: str,
    version: str,
    pipeline: type | None = None,
    decoder: Path | None = None,
    **located: Any,
) -> Any:
    """Load a pipeline with all its weights, which are on this machine.

    Args:
        architecture: name of the model in ``mmdit.CONFIGS``.
        version: DiffusionKit's name of the model.
        pipeline: the class; if None, that of the architecture.
        decoder: file of the decoder; the model's own if None.
        located: attributes of the class: DiffusionKit's constructors load the transformer.

    Raises:
        ValueError: if a file of weights lacks some.
    """
    flux = is_flux(architecture)
    class_ = pipeline or (FluxPipeline if flux else SD3Pipeline)
    bound: Any = type(class_.__name__, (class_,), {"architecture": architecture, **located})
    try:
        with lenient_updates(), offline():
            loaded = bound(
                w16=True,
                a16=True,
                shift=FLUX_SHIFT if flux else SD3_SHIFT,
                use_t5=True,
                model_version=version,
                low_memory_mode=False,
                local_ckpt=decoder and str(decoder),
            )
    finally:
        kit.model_io.LOCAl_SD3_CKPT = None  # where DiffusionKit keeps it for whatever it loads next
    replace_clip_tokenizers(loaded)
    return loaded


def sizes(architecture: str, version: str) -> Any:
    """What :func:`calibzarr.models.memory.batch_bytes` reads of a pipeline, without a pipeline."""
    config = mmdit.CONFIGS[architecture]
    channels = kit.model_io.VAEDecoderConfig().block_out_channels[0]
    return SimpleNamespace(
        mmdit=SimpleNamespace(config=config),
        activation_dtype=config.dtype,
        decoder=SimpleNamespace(conv_out=SimpleNamespace(weight=np.empty((3, channels)))),
        model_version=version,
        tokenizer_l=SimpleNamespace(max_length=kit.config.CLIPTextModelConfig().max_length),
        use_t5=True,
    )


def renamed(weights: dict[str, mx.array], config: Any) -> dict[str, mx.array]:
    """A transformer's weights, of the names that their authors gave, by DiffusionKit's names."""
    prefixed = {name: v for name, v in weights.items() if name.startswith(SD3_PREFIX)}
    weights = {name.removeprefix(SD3_PREFIX): v for name, v in (prefixed or weights).items()}
    if any(name.startswith("multimodal_transformer_blocks") for name in weights):
        return _dequantized(weights, config)
    if config.depth_unified:
        named: dict[str, mx.array] = kit.model_io.flux_state_dict_adjustments(
            weights, hidden_size=config.hidden_size, mlp_ratio=config.mlp_ratio
        )
        return named
    prefixed = {SD3_PREFIX + name: value for name, value in weights.items()}
    named = kit.model_io.mmdit_state_dict_adjustments(prefixed, prefix=SD3_PREFIX)
    biases = {name: value for name, value in weights.items() if name.endswith(".attn.qkv.bias")}
    return {**named, **{_key_bias(name): mx.split(v, 3)[1] for name, v in biases.items()}}


def _dequantized(weights: dict[str, mx.array], config: Any) -> dict[str, mx.array]:
    """Weights of one of DiffusionKit's quantized checkpoints, which hold no bias of k."""
    named = {}
    for name, value in weights.items():
        stem, _, kind = name.rpartition(".")
        if value.dtype == mx.uint32:
            scales, biases = weights[f"{stem}.scales"], weights[f"{stem}.biases"]
            bits = value.shape[1] * 32 // (scales.shape[1] * _GROUP_SIZE)
            # Its arithmetic is that of the scales, and levels are whole numbers.
            ends = mx.ones(scales.shape), mx.zeros(scales.shape)
            levels = mx.dequantize(value, *ends, group_size=_GROUP_SIZE, bits=bits)
            named[name] = on_levels(levels, scales, biases)
        elif kind not in ("scales", "biases"):
            named[name] = value
        if config.use_qk_norm and name.endswith("k_proj.weight"):
            named[f"{stem}.bias"] = mx.zeros(value.shape[0])
    return named


def _key_bias(name: str) -> str:
    """DiffusionKit's name of the bias of k, which it leaves out, by that of q, k and v."""
    for theirs, ours in (
        ("joint_blocks", "multimodal_transformer_blocks"),
        ("context_block", "text_transformer_block"),
        ("x_block", "image_transformer_block"),
        ("attn.qkv", "attn.k_proj"),
    ):
        name = name.replace(theirs, ours)
    return name

"""Small checkpoints of the models in the registry, laid out as in Hugging Face's cache.

Their weights are random, their sizes small; files, names and layouts are those of the real ones.
"""

import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import sentencepiece
from mlx.utils import tree_flatten, tree_unflatten
from tokenizers.pre_tokenizers import ByteLevel
from transformers import T5Config

from calibzarr.models.builtin import MODELS
from calibzarr.models.diffusionkit import kit
from calibzarr.models.loading import mmdit

IMAGE_SIZE = 64
T5_LENGTH = 24
TEXT_REPOSITORY = "argmaxinc/stable-diffusion"
T5_REPOSITORY = "google/t5-v1_1-xxl"

_REVISION = "0123456789abcdef0123456789abcdef01234567"
_VAE = {"block_out_channels": (8, 16, 32, 32), "resnet_groups": 4}

_SMALL = {"num_heads": 2, "depth_multimodal": 2, "mlp_ratio": 2, "hidden_size_override": 64}
_SD3 = {**_SMALL, "max_latent_resolution": 16, "pooled_text_embed_dim": 80}
_FLUX = {**_SMALL, "depth_unified": 2, "rope_axes_dim": (8, 12, 12), "pooled_text_embed_dim": 32}

MMDIT_CONFIGS = {
    "sd3-medium": replace(mmdit.CONFIGS["sd3-medium"], **_SD3),
    "sd3.5-large": replace(mmdit.CONFIGS["sd3.5-large"], **_SD3, upcast_multimodal_blocks=[1]),
    "flux-schnell": replace(mmdit.CONFIGS["flux-schnell"], **_FLUX),
    "flux-dev": replace(mmdit.CONFIGS["flux-dev"], **_FLUX),
}

# What the checkpoints' weights are stored in.
MMDIT_DTYPES = {
    **dict.fromkeys(("sd3-medium", "sd3.5-large"), mx.float16),
    **dict.fromkeys(("flux-schnell", "flux-dev"), mx.bfloat16),
}
VAE_DTYPES = {
    **dict.fromkeys(("sd3-medium", "sd3.5-large"), mx.float16),
    **dict.fromkeys(("flux-schnell", "flux-dev"), mx.float32),
}
TEXT_DTYPE = mx.float16

T5_CONFIG = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "d_model": 4096,
    "d_kv": 8,
    "d_ff": 16,
    "num_heads": 2,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "vocab_size": 192,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "dropout_rate": 0.1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-6,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "use_cache": True,
}

BPE_MERGES = (("t", "h"), ("th", "e</w>"), ("r", "e"), ("re", "d</w>"), ("c", "i"))


def bpe_vocabulary() -> dict[str, int]:
    """CLIP's vocabulary with few merges: ids of bytes, word ends, merges, special tokens."""
    characters = sorted(ByteLevel.alphabet())
    word_ends = [f"{character}</w>" for character in characters]
    merges = [first + second for first, second in BPE_MERGES]
    tokens = [*characters, *word_ends, *merges, "<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}


def _clip_config(hidden_size: int, projection_dim: int | None, hidden_act: str) -> dict:
    return {
        "architectures": ["CLIPTextModelWithProjection" if projection_dim else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_act": hidden_act,
        "hidden_size": hidden_size,
        "max_position_embeddings": 77,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "projection_dim": projection_dim or hidden_size,
        "vocab_size": len(bpe_vocabulary()),
    }


CLIP_CONFIGS = {
    "clip_l": _clip_config(32, None, "quick_gelu"),
    "clip_g": _clip_config(64, 48, "gelu"),
}


def use_small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let DiffusionKit's loaders build models of the checkpoints' sizes."""
    model_io = kit.model_io
    repositories = [MODELS[name].repository for name in MMDIT_CONFIGS]
    for name, config in MMDIT_CONFIGS.items():
        monkeypatch.setitem(mmdit.CONFIGS, name, config)
    monkeypatch.setitem(model_io._CONFIG, repositories[0], MMDIT_CONFIGS["sd3-medium"])
    monkeypatch.setattr(model_io, "FLUX_SCHNELL", MMDIT_CONFIGS["flux-schnell"])
    for name in ("VAEDecoderConfig", "VAEEncoderConfig"):
        monkeypatch.setattr(model_io, name, partial(getattr(model_io, name), **_VAE))
    for repository in (*repositories, f"{repositories[1]}-4bit-quantized"):
        monkeypatch.setitem(kit.T5_MAX_LENGTH, repository, T5_LENGTH)


def modules(name: str) -> dict[str, nn.Module]:
    """DiffusionKit's modules with the weights of a model's checkpoint, in the stored dtypes."""
    decoder, encoder = kit.config.VAEDecoderConfig(**_VAE), kit.config.VAEEncoderConfig(**_VAE)
    built = {
        "mmdit": mmdit.Transformer(MMDIT_CONFIGS[name]),
        "decoder": kit.vae.VAEDecoder(**vars(decoder)),
        "encoder": kit.vae.VAEEncoder(**vars(encoder)),
        **{part: _clip(config) for part, config in CLIP_CONFIGS.items()},
        "t5_encoder": kit.t5.SD3T5Encoder(T5Config(**T5_CONFIG), low_memory_mode=False),
    }
    if name.startswith("flux"):
        del built["clip_g"]
    dtypes = {
        "mmdit": MMDIT_DTYPES[name],
        "decoder": VAE_DTYPES[name],
        "encoder": VAE_DTYPES[name],
    }
    for seed, (part, module) in enumerate(built.items()):
        _randomize(module, seed, dtypes.get(part, TEXT_DTYPE))
    for block in built["mmdit"].get("unified_transformer_blocks", []):
        # The original has one bias for the sum of both; DiffusionKit keeps it twice.
        block.transformer_block.mlp.fc2.bias = block.transformer_block.attn.o_proj.bias
    return built


def _clip(config: Mapping) -> nn.Module:
    with_projection = "WithProjection" in config["architectures"][0]
    return kit.clip.CLIPTextModel(
        kit.config.CLIPTextModelConfig(
            num_layers=config["num_hidden_layers"],
            model_dims=config["hidden_size"],
            num_heads=config["num_attention_heads"],
            max_length=config["max_position_embeddings"],
            vocab_size=config["vocab_size"],
            projection_dim=config["projection_dim"] if with_projection else None,
            hidden_act=config["hidden_act"],
        )
    )


def _randomize(module: nn.Module, seed: int, dtype: mx.Dtype) -> None:
    """Give every parameter values of its own: norms around 1, matrices that keep variance."""
    rng = np.random.default_rng(seed)
    new = []
    for name, old in tree_flatten(module.parameters()):
        values = rng.standard_normal(old.shape)
        if old.ndim > 1:
            values /= np.sqrt(old.size / old.shape[0])
        else:
            values = 0.1 * values + name.endswith("weight")
        new.append((name, mx.array(values.astype(np.float32)).astype(dtype)))
    module.update(tree_unflatten(new))


def sentencepiece_model() -> bytes:
    """A small model of T5's kind: 0 pads, 1 ends the text, 2 is unknown."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(
            [
                "a red circle on a blue background",
                "the quick brown fox jumps over the lazy dog",
                "a photograph of a cat, sitting: 0123456789!",
            ]
        ),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def snapshot(hub: Path, repository: str) -> Path:
    """The directory of a repository's files in a cache."""
    return hub / f"models--{repository.replace('/', '--')}" / "snapshots" / _REVISION


def write(name: str, hub: Path) -> None:
    """Write all that a model loads into a cache, such as ``$HF_HOME/hub``."""
    parts = modules(name)
    repository = MODELS[name].repository
    assert repository is not None
    _write_text(hub, repository, "config.json", "{}")  # DiffusionKit's own loader wants one
    file = MODELS[name].files[0][1]
    if name.startswith("sd3"):
        weights = {
            **_prefixed("model.diffusion_model.", sd3_weights(parts["mmdit"])),
            **_prefixed("first_stage_model.decoder.", vae_weights(parts["decoder"])),
            **_prefixed("first_stage_model.encoder.", vae_weights(parts["encoder"])),
        }
        _write_weights(hub, repository, file, weights)
    else:
        _write_weights(hub, repository, file, flux_weights(parts["mmdit"]))
        weights = {
            **_prefixed("decoder.", vae_weights(parts["decoder"])),
            **_prefixed("encoder.", vae_weights(parts["encoder"])),
        }
        _write_weights(hub, repository, "ae.safetensors", weights)
    for part in parts.keys() & CLIP_CONFIGS.keys():
        _write_text(hub, TEXT_REPOSITORY, f"{part}/config.json", json.dumps(CLIP_CONFIGS[part]))
        weights = clip_weights(parts[part])
        _write_weights(hub, TEXT_REPOSITORY, f"{part}/model.fp16.safetensors", weights)
        tokenizer = part.replace("clip", "tokenizer")
        vocabulary = json.dumps(bpe_vocabulary())
        _write_text(hub, TEXT_REPOSITORY, f"{tokenizer}/vocab.json", vocabulary)
        merges = "\n".join(["#version: 0.2", *map(" ".join, BPE_MERGES), ""])
        _write_text(hub, TEXT_REPOSITORY, f"{tokenizer}/merges.txt", merges)
    _write_weights(hub, TEXT_REPOSITORY, "t5/t5xxl.safetensors", t5_weights(parts["t5_encoder"]))
    _write_t5_tokenizer(hub)


def _write_t5_tokenizer(hub: Path) -> None:
    special = {
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "additional_special_tokens": [f"<extra_id_{index}>" for index in range(100)],
    }
    _write_text(hub, T5_REPOSITORY, "config.json", json.dumps(T5_CONFIG))
    _write_text(hub, T5_REPOSITORY, "special_tokens_map.json", json.dumps(special))
    config = json.dumps({**special, "extra_ids": 100})
    _write_text(hub, T5_REPOSITORY, "tokenizer_config.json", config)
    _path(hub, T5_REPOSITORY, "spiece.model").write_bytes(sentencepiece_model())


def _write_text(hub: Path, repository: str, file: str, text: str) -> None:
    _path(hub, repository, file).write_text(text, encoding="utf-8")


def _write_weights(hub: Path, repository: str, file: str, weights: Mapping[str, mx.array]) -> None:
    mx.save_safetensors(str(_path(hub, repository, file)), dict(weights))


def _path(hub: Path, repository: str, file: str) -> Path:
    """Where a file goes; makes its directory, and the reference to the one revision."""
    directory = snapshot(hub, repository)
    reference = directory.parents[1] / "refs" / "main"
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(_REVISION, encoding="utf-8")
    path = directory / file
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def drop_weight(path: Path, key: str) -> None:
    """Rewrite a safetensors file without one of its weights."""
    weights = mx.load(str(path))
    del weights[key]
    mx.eval(weights)
    mx.save_safetensors(str(path), weights)


# The original names and layouts, from DiffusionKit's.


def sd3_weights(transformer: nn.Module) -> dict[str, mx.array]:
    """Weights of Stable Diffusion 3's transformer as Stability AI names them."""
    weights = _with_fused_qkv(_parameters(transformer))
    weights["x_embedder.proj.weight"] = weights["x_embedder.proj.weight"].transpose(0, 3, 1, 2)
    weights["pos_embed"] = weights.pop("x_pos_embedder.pos_embed.weight")[None]
    return _renamed(
        weights,
        (r"^multimodal_transformer_blocks\.", "joint_blocks."),
        (r"\.image_transformer_block\.", ".x_block."),
        (r"\.text_transformer_block\.", ".context_block."),
        (r"\.o_proj\.", ".proj."),
        (r"\.qk_norm\.([qk])_norm\.", r".attn.ln_\1."),
        (r"\.layers\.", "."),
    )


def flux_weights(transformer: nn.Module) -> dict[str, mx.array]:
    """Weights of FLUX.1's transformer as Black Forest Labs name them."""
    weights = _with_fused_qkv(_parameters(transformer))
    weights["x_embedder.proj.weight"] = weights["x_embedder.proj.weight"][:, 0, 0]
    for number in range(len(transformer.unified_transformer_blocks)):
        old = f"unified_transformer_blocks.{number}.transformer_block"
        new = f"single_blocks.{number}"
        for kind in ("weight", "bias"):
            parts = [weights.pop(f"{old}.{part}.{kind}") for part in ("attn.qkv", "mlp.fc1")]
            weights[f"{new}.linear1.{kind}"] = mx.concatenate(parts)
        parts = [weights.pop(f"{old}.{part}.weight") for part in ("attn.o_proj", "mlp.fc2")]
        weights[f"{new}.linear2.weight"] = mx.concatenate(parts, axis=1)
        weights[f"{new}.linear2.bias"] = weights.pop(f"{old}.attn.o_proj.bias")
        del weights[f"{old}.mlp.fc2.bias"]
    return _renamed(
        weights,
        (r"^x_embedder\.proj\.", "img_in."),
        (r"^context_embedder\.", "txt_in."),
        (r"^t_embedder\.", "time_in."),
        (r"^y_embedder\.", "vector_in."),
        (r"_in\.mlp\.layers\.0\.", "_in.in_layer."),
        (r"_in\.mlp\.layers\.2\.", "_in.out_layer."),
        (r"^final_layer\.adaLN_modulation\.layers\.", "final_layer.adaLN_modulation."),
        (r"^unified_transformer_blocks\.(\d+)\.transformer_block\.", r"single_blocks.\1."),
        (r"^multimodal_transformer_blocks\.", "double_blocks."),
        (r"\.image_transformer_block\.", ".img_"),
        (r"\.text_transformer_block\.", ".txt_"),
        (r"_qk_norm\.", "_attn.norm."),
        (r"\.qk_norm\.", ".norm."),
        (r"\.norm\.q_norm\.weight$", ".norm.query_norm.scale"),
        (r"\.norm\.k_norm\.weight$", ".norm.key_norm.scale"),
        (r"_adaLN_modulation\.layers\.1\.", "_mod.lin."),
        (r"\.adaLN_modulation\.layers\.1\.", ".modulation.lin."),
        (r"_attn\.o_proj\.", "_attn.proj."),
        (r"_mlp\.fc1\.", "_mlp.0."),
        (r"_mlp\.fc2\.", "_mlp.2."),
    )


def vae_weights(half: nn.Module) -> dict[str, mx.array]:
    """Weights of the autoencoder's encoder or decoder as CompVis name them."""
    weights = {}
    for name, value in _parameters(half).items():
        if value.ndim == 4:
            value = value.transpose(0, 3, 1, 2)
        elif value.ndim == 2:  # linear here, convolutions there
            value = value[:, :, None, None]
        weights[name] = value
    return _renamed(
        weights,
        (r"^mid_blocks\.0\.", "mid.block_1."),
        (r"^mid_blocks\.1\.", "mid.attn_1."),
        (r"^mid_blocks\.2\.", "mid.block_2."),
        (r"^(up|down)_blocks\.", r"\1."),
        (r"\.(up|down)sample\.", r".\1sample.conv."),
        (r"\.resnets\.", ".block."),
        (r"\.conv_shortcut\.", ".nin_shortcut."),
        (r"^conv_norm_out\.", "norm_out."),
        (r"\.group_norm\.", ".norm."),
        (r"\.(q)uery_proj\.|\.(k)ey_proj\.|\.(v)alue_proj\.", r".\1\2\3."),
        (r"\.out_proj\.", ".proj_out."),
    )


def clip_weights(clip: nn.Module) -> dict[str, mx.array]:
    """Weights of CLIP's text encoder as Transformers names them, with position ids."""
    weights = _renamed(
        _parameters(clip),
        (r"^(?!text_projection)", "text_model."),
        (r"\.(token|position)_embedding\.", r".embeddings.\1_embedding."),
        (r"\.layers\.", ".encoder.layers."),
        (r"\.attention\.", ".self_attn."),
        (r"\.(q)uery_proj\.|\.(k)ey_proj\.|\.(v)alue_proj\.", r".\1\2\3_proj."),
        (r"\.linear([12])\.", r".mlp.fc\1."),
    )
    weights["text_model.embeddings.position_ids"] = mx.arange(77, dtype=mx.int64)[None]
    return weights


def t5_weights(t5: nn.Module) -> dict[str, mx.array]:
    """Weights of T5's encoder as Transformers names them, the embeddings twice."""
    weights = _renamed(
        _parameters(t5),
        (r"^encoder\.layers\.", "encoder.block."),
        (r"\.attention\.(.)[a-z]+_proj\.", r".layer.0.SelfAttention.\1."),
        (r"\.dense\.", ".layer.1.DenseReluDense."),
        (r"\.ln1\.", ".layer.0.layer_norm."),
        (r"\.ln2\.", ".layer.1.layer_norm."),
        (r"^encoder\.ln\.", "encoder.final_layer_norm."),
        (
            r"^encoder\.relative_attention_bias\.embeddings\.",
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.",
        ),
        (r"^wte\.", "shared."),
    )
    return {**weights, "encoder.embed_tokens.weight": weights["shared.weight"]}


def _parameters(module: nn.Module) -> dict[str, mx.array]:
    return dict(tree_flatten(module.parameters()))


def _prefixed(prefix: str, weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    return {prefix + name: value for name, value in weights.items()}


def _renamed(
    weights: Mapping[str, mx.array], *substitutions: tuple[str, str]
) -> dict[str, mx.array]:
    """The weights with regular expressions substituted in their names, one after the other."""
    new = {_substituted(name, substitutions): value for name, value in weights.items()}
    assert len(new) == len(weights)
    return new


def _substituted(name: str, substitutions: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in substitutions:
        name = re.sub(pattern, replacement, name)
    return name


def _with_fused_qkv(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Fuse q, k and v, with a bias for k where it has no effect, which DiffusionKit drops."""
    fused = dict(weights)
    for name in weights:
        if name.endswith("q_proj.bias"):
            fused.setdefault(name.replace("q_proj", "k_proj"), 0.5 * weights[name])
    for name in list(fused):
        if "q_proj" in name:
            parts = [fused.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
            fused[name.replace("q_proj", "qkv")] = mx.concatenate(parts)
    return fused

"""The embedded model: DiffusionKit's own classes, small, with weights in the package."""

import hashlib
import logging
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from calibzarr.models.compatibility import import_diffusionkit
from calibzarr.models.formulas import MAX_IMAGE_SIZE_OF_TINY, PIXELS_PER_LATENT
from calibzarr.prompts.shapes import CAPTION_WORDS

kit: Any = import_diffusionkit()
logger = logging.getLogger(__name__)

WEIGHTS = Path(__file__).with_name("tiny.safetensors")
SHA256 = "610672cc20b68754085f3ee9c524657955240befddf61fe50f0a088b1a56a92a"

MODULES = ("mmdit", "decoder", "encoder", "clip_l", "clip_g")  # those that have weights
TEXT_TOKENS = 16
_UNKNOWN_WORDS = 64  # ids that words outside the vocabulary share
_SHOWN = 200  # characters of a text in a message


class WordTokenizer(kit.tokenizer.Tokenizer):
    """DiffusionKit's tokenizer with whole words as tokens; it has an id for any text.

    A word outside the vocabulary gets one of a few ids kept for such words, always the same; the
    first text with such words is told of in the log.
    """

    _told_of_unknown = False  # of all tokenizers in this process

    def __init__(self, *, pad_with_eos: bool) -> None:
        super().__init__({}, vocabulary(), pad_with_eos)
        self.max_length = TEXT_TOKENS

    def tokenize(self, text: str | list[str], *args: bool, **kwargs: bool) -> list[Any]:
        """Ids of a text, or of each of several."""
        if isinstance(text, list):
            return [self.tokenize(one, *args, **kwargs) for one in text]
        if not WordTokenizer._told_of_unknown:
            unknown = unknown_words(text)
            if unknown:
                WordTokenizer._told_of_unknown = True
                logger.warning(
                    "tiny knows shapes and colours alone; of %r it does not know: %s. "
                    "Other such texts are not named",
                    text[:_SHOWN],
                    ", ".join(unknown)[:_SHOWN],
                )
        words = self.pat.findall(text.lower())
        return super().tokenize(" ".join(words[: self.max_length - 2]), *args, **kwargs)

    def bpe(self, text: str) -> list[str]:
        """The one token that a word is."""
        return [text if text in self.vocab else _unknown(text)]


@cache
def vocabulary() -> dict[str, int]:
    """Id of each token: padding first, the end of the text last, as DiffusionKit's CLIP needs."""
    unknown = [f"<unknown {i}>" for i in range(_UNKNOWN_WORDS)]
    tokens = ["<pad>", "<|startoftext|>", *unknown, *CAPTION_WORDS, "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}


def unknown_words(text: str) -> list[str]:
    """The words of a text that the embedded model was not trained with, each once, in order."""
    words = re.findall(r"\w+", text.lower())
    return [word for word in dict.fromkeys(words) if word not in CAPTION_WORDS]


def _unknown(word: str) -> str:
    digest = hashlib.blake2b(word.encode(), digest_size=2).digest()
    return f"<unknown {int.from_bytes(digest, 'big') % _UNKNOWN_WORDS}>"


class TinyPipeline(kit.DiffusionPipeline):
    """A pipeline of seconds: the same code paths as Stable Diffusion 3, 3 million parameters.

    Args:
        weights: a safetensors file as :func:`save_weights` writes it, or None for random ones.
    """

    def __init__(self, weights: Path | None = WEIGHTS) -> None:
        self.float16_dtype = mx.float16
        self.dtype = self.activation_dtype = mx.float32
        self.use_t5 = False
        self.use_clip_g = True
        self.low_memory_mode = False
        self.model_version = "tiny"
        self.sampler = kit.sampler.ModelSamplingDiscreteFlow(shift=3.0)
        self.latent_format = kit.SD3LatentFormat()
        self.weights = weights
        self.mmdit = kit.mmdit.MMDiT(
            kit.config.MMDiTConfig(
                num_heads=4,
                depth_multimodal=4,
                mlp_ratio=2,
                hidden_size_override=128,
                max_latent_resolution=MAX_IMAGE_SIZE_OF_TINY // PIXELS_PER_LATENT,
                pooled_text_embed_dim=128,
                dtype=mx.float32,
                low_memory_mode=False,
            )
        )
        channels = {"block_out_channels": [8, 16, 32, 32], "resnet_groups": 4}
        self.decoder = kit.vae.VAEDecoder(**channels, layers_per_block=1)
        self.encoder = kit.vae.VAEEncoder(**channels, layers_per_block=1)
        text = kit.config.CLIPTextModelConfig(
            num_layers=2,
            model_dims=64,
            num_heads=2,
            max_length=TEXT_TOKENS,
            vocab_size=len(vocabulary()),
            projection_dim=64,
        )
        self.clip_l, self.clip_g = kit.clip.CLIPTextModel(text), kit.clip.CLIPTextModel(text)
        self.tokenizer_l = WordTokenizer(pad_with_eos=True)
        self.tokenizer_g = WordTokenizer(pad_with_eos=False)
        if weights is not None:
            load_weights(self, weights)

    def check_and_load_models(self) -> None:
        """Everything is loaded from the start."""

    def load_mmdit(
        self,
        only_modulation_dict: bool = False,  # noqa: FBT001, FBT002 - as DiffusionKit has it
    ) -> list[tuple[str, mx.array]]:
        """The adaLN weights, which DiffusionKit's own sampler reads again after each image."""
        prefix = "mmdit."
        if self.weights is None:
            raise ValueError("random weights are in no file that could be read again")
        return [
            (name.removeprefix(prefix), value.astype(self.dtype))
            for name, value in _load(self.weights).items()
            if name.startswith(prefix) and ("adaLN" in name or not only_modulation_dict)
        ]


def modules(pipeline: TinyPipeline) -> dict[str, nn.Module]:
    """The modules of the pipeline that have weights, by name."""
    return {name: getattr(pipeline, name) for name in MODULES}


def _load(path: Path) -> dict[str, mx.array]:
    weights = mx.load(str(path))
    if not isinstance(weights, dict):
        raise ValueError(f"{path} is no safetensors file")
    return weights


def load_weights(pipeline: TinyPipeline, path: Path, names: Collection[str] = MODULES) -> None:
    """Load modules' weights from one safetensors file, strictly, as float32."""
    weights = _load(path)
    for name in names:
        module = getattr(pipeline, name)
        prefix = f"{name}."
        parameters = [
            (key.removeprefix(prefix), value.astype(mx.float32))
            for key, value in weights.items()
            if key.startswith(prefix)
        ]
        module.load_weights(parameters)
        mx.eval(module.parameters())


def save_weights(pipeline: TinyPipeline, path: Path) -> None:
    """Save every module's weights in float16 to one safetensors file."""
    weights = {
        f"{name}.{key}": value.astype(mx.float16)
        for name, module in modules(pipeline).items()
        for key, value in tree_flatten(module.parameters())
    }
    mx.save_safetensors(str(path), weights)

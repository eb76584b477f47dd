"""The tokenizers of DiffusionKit's pipelines, of which CLIP's are replaced."""

from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from calibzarr.models.base import TextTokenizer

_NAMES = {"clip_l": "tokenizer_l", "clip_g": "tokenizer_g", "t5": "t5_tokenizer"}  # in a pipeline
_FILES = ("vocab.json", "merges.txt")


class ClipTokenizer:
    """CLIP's tokenizer where DiffusionKit expects its own, which takes characters for bytes.

    That one fails for most characters that are not ASCII, and gives wrong ids for the others.

    Args:
        directory: has ``vocab.json`` and ``merges.txt``.
        former: DiffusionKit's tokenizer; length and padding are those of it.

    Attributes:
        former: the same.
        max_length: most tokens of a text, with those that begin and end it.
    """

    pad_to_max_length = True

    def __init__(self, directory: Path, former: Any) -> None:
        from transformers import CLIPTokenizerFast

        self._tokenizer = CLIPTokenizerFast.from_pretrained(directory, local_files_only=True)
        self.former = former
        self.max_length = former.max_length
        self.pad_with_eos = former.pad_with_eos
        self.eos_token = former.eos_token

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text, cut to ``max_length``."""
        return self._tokenizer(text, truncation=True, max_length=self.max_length)["input_ids"]


def replace_clip_tokenizers(pipeline: Any) -> None:
    """Give a pipeline of DiffusionKit's, which has been loaded, tokenizers that know bytes."""
    for name in ("tokenizer_l", "tokenizer_g"):
        former = getattr(pipeline, name, None)
        if former is not None:
            files = [Path(hf_hub_download(pipeline.model, f"{name}/{file}")) for file in _FILES]
            setattr(pipeline, name, ClipTokenizer(files[0].parent, former))


def tokenizers(pipeline: Any) -> dict[str, TextTokenizer]:
    """What makes tokens of a text for each of a pipeline's text encoders."""
    found = {encoder: getattr(pipeline, name, None) for encoder, name in _NAMES.items()}
    return {
        encoder: TextTokenizer(
            tokenize=tokenizer.tokenize,
            max_length=tokenizer.max_length,
            former=getattr(tokenizer, "former", tokenizer).tokenize,
        )
        for encoder, tokenizer in found.items()
        if tokenizer is not None
    }

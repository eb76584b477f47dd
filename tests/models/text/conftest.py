"""A vocabulary in CLIP's format, and DiffusionKit's tokenizers of it."""

import json

import pytest
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from calibzarr.models.diffusionkit import kit
from calibzarr.models.text.tokenizers import ClipTokenizer
from calibzarr.prompts.general import make_prompts
from tests.support.scripts import mixed_prompts


@pytest.fixture(scope="session")
def clip_files(tmp_path_factory):
    """A vocabulary in CLIP's format: bytes, bytes that end words, 2,000 merges, special tokens."""
    directory = tmp_path_factory.mktemp("clip")
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = CLIPTokenizer().backend_tokenizer.normalizer
    trained.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=2512,
        initial_alphabet=ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    trained.train_from_iterator([*make_prompts(1000), *mixed_prompts(500, seed=1)], trainer)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    alphabet = sorted(ByteLevel.alphabet())
    ends = [f"{character}</w>" for character in alphabet]
    merged = [first + second for first, second in merges]
    tokens = [*alphabet, *ends, *merged, "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (directory / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *map(" ".join, merges), ""]
    (directory / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def formers(clip_files):
    """DiffusionKit's tokenizers of that vocabulary, by whether they pad with the end of text."""
    vocabulary = json.loads((clip_files / "vocab.json").read_text(encoding="utf-8"))
    lines = (clip_files / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    ranks = {tuple(line.split()): rank for rank, line in enumerate(lines)}
    return {pads: kit.tokenizer.Tokenizer(ranks, vocabulary, pads) for pads in (True, False)}


@pytest.fixture(scope="session")
def clip(clip_files, formers):
    """CLIP's tokenizer, which pads with the end of the text."""
    return ClipTokenizer(clip_files, formers[True])

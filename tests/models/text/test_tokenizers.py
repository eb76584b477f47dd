"""CLIP's tokenizer against transformers' own, and against its definition on bytes."""

import unicodedata

import mlx.core as mx
import pytest
import regex
from transformers import CLIPTokenizer

from calibzarr.models.diffusionkit import kit
from calibzarr.models.text.tokenizers import ClipTokenizer
from calibzarr.prompts.general import make_prompts
from tests.support.scripts import mixed_prompts


def by_definition(former, text):
    """CLIP's tokens: pieces of the lower-case text, their bytes as characters, merged by rank."""
    printable = {ord(character): character for character in map(chr, range(33, 127))}
    printable |= {code: chr(code) for code in (*range(0xA1, 0xAD), *range(0xAE, 0x100))}
    others = [byte for byte in range(256) if byte not in printable]
    characters = printable | {byte: chr(256 + index) for index, byte in enumerate(others)}
    lower = "".join(character.lower() for character in unicodedata.normalize("NFC", text))
    pieces = regex.findall(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", lower)
    encoded = ["".join(characters[byte] for byte in piece.encode()) for piece in pieces]
    ids = [former.vocab[token] for piece in encoded for token in former.bpe(piece)]
    return [former.bos_token, *ids[:75], former.eos_token]


@pytest.mark.parametrize("count", [300, pytest.param(9000, marks=pytest.mark.slow)])
def test_prompts_of_all_scripts_get_the_tokens_that_clip_gives_them(
    clip, clip_files, formers, count
):
    own = CLIPTokenizer.from_pretrained(clip_files)
    prompts = [*mixed_prompts(count, seed=2), *make_prompts(count // 9, seed=3)]
    expected = own(prompts, truncation=True, max_length=77)["input_ids"]
    tokens = [clip.tokenize(prompt) for prompt in prompts]
    assert tokens == expected
    assert tokens == [by_definition(formers[True], prompt) for prompt in prompts]
    assert max(map(len, tokens)) == 77
    assert sum(len(ids) < 77 for ids in tokens) > count / 2


def test_what_is_ascii_gets_the_tokens_that_it_had(clip, formers):
    former = formers[True]
    prompts = [p.encode("ascii", "ignore").decode() for p in make_prompts(1000, seed=4)]
    prompts += ["", "it's THE dog's 42nd \t\n[brackets](1.5) {x} ~`^", "no " * 200]
    assert [clip.tokenize(p) for p in prompts] == [former.tokenize(p) for p in prompts]


@pytest.mark.parametrize("pads_with_end", [True, False])
def test_a_pipeline_pads_as_before(clip_files, formers, pads_with_end):
    former = formers[pads_with_end]
    new = ClipTokenizer(clip_files, former)
    pad = kit.DiffusionPipeline._tokenize
    ids = pad(None, new, "a red circle", "blue")
    assert ids.shape == (2, 77)
    assert mx.array_equal(ids, pad(None, former, "a red circle", "blue"))
    assert ids[0, -1].item() == (former.eos_token if pads_with_end else 0)

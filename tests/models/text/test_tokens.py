import copy
from pathlib import Path

import pytest

from calibzarr.errors import StoreError
from calibzarr.models.text import tokens

STORE = Path("s.zarr")


@pytest.fixture
def clip_model(tiny, clip):
    """The embedded model with one tokenizer, CLIP's."""
    model = copy.copy(tiny)
    model.pipeline = copy.copy(tiny.pipeline)
    model.pipeline.tokenizer_l, model.pipeline.tokenizer_g = clip, None
    return model


@pytest.mark.parametrize("script", ["word", "ελληνικά", "слово", "漢字", "مرحبا", "😀😀", "café"])
def test_what_no_text_encoder_reads_is_said_of_prompts_of_all_scripts(tiny, script):
    words = [f"{script}{digit}" for digit in range(1, 10)]  # two tokens each
    assert tokens.lost(tiny, " ".join(words[:7])) == {}
    lost = tokens.lost(tiny, " ".join(words))
    assert lost == {"clip_l, clip_g": " ".join(words[7:])}


def test_a_prompt_of_just_enough_tokens_is_not_cut(clip_model, clip):
    prompt = "漢" * 40
    whole = clip._tokenizer(prompt)["input_ids"]
    while len(whole) > 77:
        prompt = prompt[:-1]
        whole = clip._tokenizer(prompt)["input_ids"]
    assert len(whole) > 74
    assert tokens.lost(clip_model, prompt) == {}
    assert tokens.lost(clip_model, prompt + " and more, " + "x" * 80)["clip_l"].endswith("xx")


def test_a_store_that_says_nothing_of_tokens_has_diffusionkits(clip_model):
    tokens.check(STORE, {}, ["a cat, it's grey", "5 x 7"], clip_model)
    tokens.check(STORE, {}, ["“quoted”", "漢字"], clip_model)  # never made: it failed
    with pytest.raises(StoreError, match="such as 'café'"):
        tokens.check(STORE, {}, ["a cat", "café"], clip_model)


def test_tokens_are_told_by_their_hash(clip_model, tiny):
    prompts = ["a red circle", "“quoted” café"]
    said = tokens.described(clip_model, prompts)
    tokens.check(STORE, said, prompts, clip_model)
    tokens.check(STORE, {**said, "libraries": {"transformers": "1.0"}}, prompts, clip_model)
    assert said != tokens.described(clip_model, prompts[::-1])
    with pytest.raises(StoreError, match=r"transformers 1\.0 that it was built with"):
        tokens.check(STORE, {**said, "libraries": {"transformers": "1.0"}}, prompts, tiny)


def test_each_prompt_that_is_cut_is_named_once(tiny):
    long = [f"{index} " * 20 for index in range(25)]
    prompts = dict(enumerate(["a red star", "b " * 20, "b " * 20, *long, *long]))
    lines = tokens.notes(tiny, prompts)
    assert len(lines) == 21
    assert (
        lines[0] == f"the prompt of image 1 is cut for clip_l, clip_g, which lose {'b b b b b b'!r}"
    )
    assert "image 3 " in lines[1]
    assert lines[20] == "6 other prompts are cut as well"

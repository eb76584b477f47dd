import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibzarr.errors import OptionError
from calibzarr.prompts.lists import (
    MAX_SEED,
    PromptList,
    as_text,
    assign,
    read_prompts,
    shape_captions,
)
from calibzarr.prompts.shapes import CAPTION_WORDS

# What a text editor can hold: no surrogates, no NUL (csv refuses it).
text = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1)


@given(st.lists(text.filter(lambda prompt: prompt.strip()), min_size=1), st.booleans())
def test_csv_written_by_the_csv_module_is_read_back(tmp_path_factory, prompts, byte_order_mark):
    path = tmp_path_factory.mktemp("csv") / "prompts.csv"
    encoding = "utf-8-sig" if byte_order_mark else "utf-8"
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "prompt"], *([i, prompt] for i, prompt in enumerate(prompts))])
    assert read_prompts(path).prompts == tuple(prompt.strip() for prompt in prompts)


def test_csv_with_quotes_commas_newlines_and_seeds(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text('seed, prompt\n7,"a ""red"", round\nball"\n,plain\n', encoding="utf-8")
    read = read_prompts(path)
    assert read.prompts == ('a "red", round\nball', "plain")
    assert read.seeds == (7, None)
    assert read.source == "prompts.csv"


def test_text_file_has_one_prompt_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes('\ufeffa cat, "quoted"\r\n\r\n  ein Käse \n'.encode())
    assert read_prompts(path).prompts == ('a cat, "quoted"', "ein Käse")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", b"", "has no prompts"),
        ("p.csv", b"prompt\n", "has no prompts"),
        ("p.txt", b"\n \n", "has no prompts"),
        ("p.csv", b"id,caption\n1,x\n", "no column 'prompt'; its columns are id, caption"),
        ("p.txt", b"caf\xe9\n", "not UTF-8 .byte 3 is 0xe9."),
        ("p.csv", b"prompt,seed\nx,-1\n", "line 2: seed must be 0 to 4294967295, got '-1'"),
        ("p.csv", b"prompt,seed\nx,1.5\n", "got '1.5'"),
        ("p.csv", b"prompt,seed\n  ,1\n", "line 2: the prompt is empty"),
        ("p.csv", b'prompt\n"open\n', "unexpected end of data"),
    ],
)
def test_unusable_files_are_named_with_the_reason(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_prompts(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_own_captions_differ_and_use_only_known_words():
    captions = shape_captions().prompts
    assert len(set(captions)) == len(captions) >= 200
    assert {word for caption in captions for word in caption.split()} <= set(CAPTION_WORDS)
    assert captions == shape_captions().prompts


def test_image_i_has_seed_plus_i_unless_the_file_says_otherwise():
    available = PromptList(("a", "b", "c"), (None, 70, None), "p.csv")
    assert assign(available, 3, seed=10, repeat=False) == (["a", "b", "c"], [10, 70, 12])
    assert assign(available, 5, seed=10, repeat=True) == (
        ["a", "b", "c", "a", "b"],
        [10, 70, 12, 13, 14],
    )


@pytest.mark.parametrize("name", ["p.csv", "p.txt"])
def test_what_is_written_is_read_again(tmp_path, name):
    prompts = ('a sign, "closed"', "two cats")
    file = tmp_path / name
    file.write_text(as_text(prompts, as_csv=name.endswith("csv")))
    assert read_prompts(file).prompts == prompts


def test_too_few_prompts_name_both_numbers_and_repeat():
    with pytest.raises(OptionError, match=r"3 images .* has 2; .*repeat"):
        assign(PromptList(("a", "b"), (None, None), "p.csv"), 3, seed=0, repeat=False)


@pytest.mark.parametrize("seed", [-1, MAX_SEED, MAX_SEED + 1])
def test_seeds_stay_within_what_the_noise_accepts(seed):
    with pytest.raises(OptionError, match=f"got {seed}"):
        assign(PromptList(("a", "b"), (None, None), "p.csv"), 2, seed=seed, repeat=False)

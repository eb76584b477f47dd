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
    notes_of_repeats,
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
        ("p.csv", b'prompt\nx\n"open\n\n\ny\n', "line 3: unexpected end of data"),
        ("p.csv", b"prompt\na red circle, small\n", "line 2: has 2 fields for 1 columns; .*quotes"),
        ("p.csv", b"Seed,PROMPT\n7,x,\n", "line 2: has 3 fields for 2 columns; put a .* commas"),
        ("p.tsv", b"prompt\tseed\n\nx\t1\ty\n", "line 3: has 3 fields .* a prompt with tabs"),
        ("p.csv", b"prompt,Prompt\nx,y\n", "has 2 columns 'prompt'; leave one"),
        ("p.csv", b"Seed,prompt,seed\n1,x,2\n", "has 2 columns 'seed'"),
        ("p.csv", b"prompt\nx\na\0b\n", "line 3: has a zero byte"),
        ("p.txt", b"a\0b\n", "line 1: has a zero byte"),
        ("p.csv", b"prompt,seed\nx," + b"9" * 5000, "line 2: seed must be 0 to .*9"),
        ("p.csv", b"caption" * 100, "its columns are"),
        ("p.txt", b"x\n" + b"y" * 10_001, "line 2: the prompt has 10001 characters, and 10000"),
        ("p.csv", b"prompt\n" + b"y" * 10_001, "line 2: the prompt has 10001 characters, and"),
        ("p.csv", b"prompt\n" + b"y" * 200_000, "line 2: field larger than field limit"),
        ("p.txt", b"y\n" * 1_000_001, "has 1000001 prompts, and 1000000 are allowed"),
    ],
)
def test_unusable_files_are_named_with_the_reason(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_prompts(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200 + len(str(path))


@pytest.mark.parametrize("name", ["p.txt", "p.csv"])
def test_files_of_any_size_are_refused_without_reading_them(tmp_path, name):
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="is larger than 64 MiB"):
        read_prompts(path)


def test_columns_in_any_case_and_tables_by_tabs(tmp_path):
    path = tmp_path / "prompts.TSV"
    path.write_bytes('\ufeffSeed\t PROMPT \tid\r\n7\t"a\tb", c\t1\r\n\r\n\tplain\r\n'.encode())
    with pytest.raises(ValueError, match="line 2: '\t' expected after"):
        read_prompts(path)
    path.write_bytes('\ufeffSeed\t PROMPT \tid\r\n7\ta, "b"\t1\r\n\r\n\tplain\r\n'.encode())
    assert read_prompts(path).prompts == ('a, "b"', "plain")
    assert read_prompts(path).seeds == (7, None)
    assert read_prompts(path).notes == ()


def test_lines_that_look_like_comments_are_told_of(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n# my list\n#1 dad\n")
    read = read_prompts(path)
    assert read.prompts == ("a cat", "# my list", "#1 dad")
    assert read.notes == (
        f"{path}, line 2: begins with # and is a prompt, as are all such lines: 2",
    )


def test_prompts_with_one_seed_that_occur_twice_are_told_of_once():
    assert notes_of_repeats(["a", "a", "b"], [1, 2, 1]) == []
    assert notes_of_repeats(["a", "b", "a"], [1, 1, 1]) == [
        "image 2 has the prompt and the seed of image 0, and will be the same"
    ]
    (note,) = notes_of_repeats(["a", "b", "a", "b", "a"], [1] * 5)
    assert note.endswith("; so do 2 others")


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

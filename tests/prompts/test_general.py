import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibzarr.errors import OptionError
from calibzarr.prompts.general import MAX_PROMPTS, general_prompts, plural
from calibzarr.prompts.lists import MAX_SEED, read_prompts
from calibzarr.prompts.sentences import FRAMES, SCENES
from calibzarr.prompts.words import WORDS

SHOWN = ["animal", "object", "vehicle", "building", "plant", "creature", "role"]
LOOKS = [
    "photograph",
    "artwork",
    "medium",
    "composition",
    "light",
    "time",
    "weather",
    "outdoors",
    "city",
    "colour",
]


@pytest.fixture(scope="module")
def many():
    return general_prompts(10_000, 1)


def mentioned(words, prompts):
    """How many of the words, or their plurals, some prompt has."""
    text = "\n".join(prompts)
    return sum(word in text or plural(word) in text for word in words)


@pytest.mark.parametrize("seed", [0, 1, 2, MAX_SEED])
def test_no_prompt_comes_twice_whatever_its_case(seed):
    assert len({prompt.casefold() for prompt in general_prompts(10_000, seed)}) == 10_000


def test_as_many_as_are_promised_can_be_had():
    assert len(set(general_prompts(MAX_PROMPTS, 5))) == MAX_PROMPTS


@settings(max_examples=25)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, MAX_SEED))
def test_a_shorter_list_is_the_beginning_of_a_longer_one(one, other, seed):
    short, long = sorted((one, other))
    assert general_prompts(short, seed) == general_prompts(long, seed)[:short]


def test_another_process_makes_the_same_list_and_another_seed_another():
    code = (
        "from calibzarr.prompts.general import general_prompts; "
        "print(*general_prompts(300, 9), sep='\\n')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert tuple(result.stdout.splitlines()) == general_prompts(300, 9)
    assert not set(general_prompts(10, 9)) & set(general_prompts(10, 10))


def test_prompts_are_clean_lines_of_moderate_length(many):
    lengths = [len(prompt.split()) for prompt in many]
    assert 3 <= min(lengths) <= 4
    assert 35 <= max(lengths) <= 50
    for prompt in many:
        assert prompt == " ".join(prompt.split())
        assert prompt.isascii()
        assert not re.search(r"[{}]|a/an| ,|,,|;", prompt), prompt


def test_articles_fit_the_words_after_them(many):
    text = "\n".join(many)
    after_an = set(re.findall(r"\ban ([\w-]+)", text, re.IGNORECASE))
    after_a = set(re.findall(r"\ba ([\w-]+)", text, re.IGNORECASE))
    assert len(after_an) > 40
    assert len(after_a) > 200
    assert not [word for word in after_an if word[0].lower() not in "aeiou"]
    vowel_in_writing_alone = {"unicorn", "one-eyed"}
    assert {word for word in after_a if word[0].lower() in "aeiou"} == vowel_in_writing_alone


def test_counted_nouns_are_plural(many):
    counted = re.compile(r"\b(?:two|three|four|five|six|seven|eight|nine|ten|a dozen) (.*)")
    animals = {plural(animal) for animal in WORDS["animal"]}
    groups = [found[1] for prompt in many if (found := counted.search(prompt.lower()))]
    singular = re.compile(rf"(?:{'|'.join(map(re.escape, WORDS['animal']))})(?= |,|$)")
    starting = [group for group in groups if group.startswith(tuple(WORDS["animal"]))]
    assert len(starting) > 50
    for group in starting:
        assert group.startswith(tuple(animals)), group
        assert not singular.match(group) or group.startswith("jellyfish"), group


@pytest.mark.parametrize(
    ("one", "more"),
    [
        ("wolf", "wolves"),
        ("two-headed wolf", "two-headed wolves"),
        ("butterfly", "butterflies"),
        ("donkey", "donkeys"),
        ("double-decker bus", "double-decker buses"),
        ("mango", "mangoes"),
        ("flamingo", "flamingos"),
        ("fisherman", "fishermen"),
        ("pair of scissors", "pairs of scissors"),
        ("rocking horse", "rocking horses"),
    ],
)
def test_plurals(one, more):
    assert plural(one) == more


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ten_prompts_are_about_different_things_in_different_looks(seed):
    prompts = general_prompts(10, seed)
    assert sum(mentioned(WORDS[kind], prompts) > 0 for kind in SHOWN) >= 5
    assert mentioned((*WORDS["photograph"], *WORDS["artwork"], *WORDS["medium"]), prompts) >= 4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_hundred_prompts_show_every_kind_of_thing_and_look(seed):
    prompts = general_prompts(100, seed)
    for kind in (*SHOWN, *LOOKS):
        assert mentioned(WORDS[kind], prompts) >= 6, kind
    assert sum('"' in prompt for prompt in prompts) >= 5
    assert sum(bool(re.search(r"\b(two|three|four|five|six)\b", p.lower())) for p in prompts) >= 3


def test_every_word_is_used(many):
    text = "\n".join(many).lower()
    for kind, words in WORDS.items():
        for word in words:
            if "{" not in word and "a/an" not in word:
                assert word.lower() in text or plural(word).lower() in text, (kind, word)


def test_every_list_of_words_is_named_by_a_sentence_and_has_no_word_twice():
    sentences = [*FRAMES, *(scene for scenes in SCENES.values() for scene in scenes)]
    words = [word for words in WORDS.values() for word in words]
    named = set(re.findall(r"\{(\w+)", " ".join([*sentences, *words])))
    assert named == {*WORDS, "scene"}
    for words in WORDS.values():
        assert len(set(words)) == len(words)


def test_a_colour_is_not_put_beside_itself(many):
    pairs = [m.groups() for p in many if (m := re.search(r"shades of (.+) and (.+)$", p))]
    assert len(pairs) > 500
    assert not [pair for pair in pairs if pair[0] == pair[1]]


@pytest.mark.parametrize("count", [-1, 0, MAX_PROMPTS + 1])
def test_impossible_count_is_refused(count):
    with pytest.raises(OptionError, match=f"count must be 1 to {MAX_PROMPTS}, got {count}$"):
        general_prompts(count)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_impossible_seed_is_refused(seed):
    with pytest.raises(OptionError, match=f"seed must be 0 to {MAX_SEED}, got {seed}$"):
        general_prompts(3, seed)


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "P.CSV", "prompts", "new/folder/p.csv"])
def test_written_prompts_are_read_back(run, tmp_path, name):
    path = tmp_path / name
    code, out, err = run("prompts", "--count", 500, "--seed", 3, "--out", path)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"{path}: 500 prompts"
    assert f"calibzarr build stores/sd3.zarr --model sd3-medium --prompts {path}\n" in out
    read = read_prompts(path)
    assert read.prompts == general_prompts(500, 3)
    assert read.seeds == (None,) * 500
    assert any('"' in prompt and "," in prompt for prompt in read.prompts)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_prompts_are_printed_one_a_line(run):
    code, out, err = run("prompts", "--count", 20, "--seed", 4)
    assert (code, err) == (0, "")
    assert out == "".join(f"{prompt}\n" for prompt in general_prompts(20, 4))


def test_quiet_tells_only_where_they_are(run, tmp_path):
    path = tmp_path / "p.txt"
    assert run("prompts", "--count", 3, "--out", path, "-q") == (0, f"{path}: 3 prompts\n", "")


def test_existing_file_is_kept_without_force(run, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("mine")
    code, out, err = run("prompts", "--out", path)
    assert (code, out) == (1, "")
    assert err == f"Error: {path} exists already; overwrite it with --force\n"
    assert path.read_text() == "mine"
    assert run("prompts", "--count", 5, "--out", path, "--force")[0] == 0
    assert read_prompts(path).prompts == general_prompts(5)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--count", "0"], 2, "count must be 1 to 100000, got 0"),
        (["--count", "100001"], 2, "count must be 1 to 100000, got 100001"),
        (["--count", "many"], 2, "'many' is not a valid integer"),
        (["--seed", "-1"], 2, "seed must be 0 to 4294967295, got -1"),
        (["--out", "."], 2, "is a directory"),
        (["--out", "taken/p.csv"], 1, "taken"),
    ],
)
def test_bad_options_are_one_line_on_standard_error(
    run, tmp_path, monkeypatch, options, code, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file")
    actual, out, err = run("prompts", *options)
    assert (actual, out, err.count("\n")) == (code, "", 1)
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_reader_that_stops_early_sees_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "calibzarr", "prompts", "--count", "20000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == f"{general_prompts(1)[0]}\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 0


@pytest.mark.parametrize("command", ["prompts", "build"])
def test_examples_in_the_help_stand_on_their_own_lines(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert len(re.findall(rf"^  calibzarr {command}\b", out, re.MULTILINE)) >= 2
    assert "\\b" not in out

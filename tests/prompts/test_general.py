import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibzarr.errors import OptionError
from calibzarr.prompts.general import MAX_PROMPTS, make_prompts, plural
from calibzarr.prompts.lists import MAX_SEED
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
    return make_prompts(10_000, 1)


def mentioned(words, prompts):
    """How many of the words, or their plurals, some prompt has."""
    text = "\n".join(prompts)
    return sum(word in text or plural(word) in text for word in words)


@pytest.mark.parametrize("seed", [0, 1, 2, MAX_SEED])
def test_no_prompt_comes_twice_whatever_its_case(seed):
    assert len({prompt.casefold() for prompt in make_prompts(10_000, seed)}) == 10_000


def test_as_many_as_are_promised_can_be_had():
    assert len(set(make_prompts(MAX_PROMPTS, 5))) == MAX_PROMPTS


@settings(max_examples=25)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, MAX_SEED))
def test_a_shorter_list_is_the_beginning_of_a_longer_one(one, other, seed):
    short, long = sorted((one, other))
    assert make_prompts(short, seed) == make_prompts(long, seed)[:short]


def test_another_process_makes_the_same_list_and_another_seed_another():
    code = (
        "from calibzarr.prompts.general import make_prompts; "
        "print(*make_prompts(300, 9), sep='\\n')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert tuple(result.stdout.splitlines()) == make_prompts(300, 9)
    assert not set(make_prompts(10, 9)) & set(make_prompts(10, 10))


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
    prompts = make_prompts(10, seed)
    assert sum(mentioned(WORDS[kind], prompts) > 0 for kind in SHOWN) >= 5
    assert mentioned((*WORDS["photograph"], *WORDS["artwork"], *WORDS["medium"]), prompts) >= 4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_hundred_prompts_show_every_kind_of_thing_and_look(seed):
    prompts = make_prompts(100, seed)
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


def test_a_colour_is_not_put_beside_itself(many):
    pairs = [m.groups() for p in many if (m := re.search(r"shades of (.+) and (.+)$", p))]
    assert len(pairs) > 500
    assert not [pair for pair in pairs if pair[0] == pair[1]]


@pytest.mark.parametrize("count", [-1, 0, MAX_PROMPTS + 1])
def test_impossible_count_is_refused(count):
    with pytest.raises(OptionError, match=f"count must be 1 to {MAX_PROMPTS}, got {count}$"):
        make_prompts(count)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_impossible_seed_is_refused(seed):
    with pytest.raises(OptionError, match=f"seed must be 0 to {MAX_SEED}, got {seed}$"):
        make_prompts(3, seed)

"""Varied prompts for large text-to-image models, made from words and sentences kept here."""

import random
import re

from calibzarr.errors import Option, OptionError
from calibzarr.prompts.lists import MAX_SEED
from calibzarr.prompts.sentences import FRAMES, SCENES
from calibzarr.prompts.words import WORDS

MAX_PROMPTS = 100_000  # any seed gives so many without a repeat

_ATTEMPTS = 10  # at other words for the same sentence, when it was said already
_FIELD = re.compile(r"\{(\w+)(:plural)?\}")
_ARTICLE = re.compile(r"\ba/an (\w+)")
_AN = re.compile(r"[aeiou]|8|hour|honest", re.IGNORECASE)
_A = re.compile(r"uni[cfv]|eu|one|uku|use", re.IGNORECASE)

_IRREGULAR = {
    "man": "men",
    "woman": "women",
    "fisherman": "fishermen",
    "wolf": "wolves",
    "jellyfish": "jellyfish",
    "samurai": "samurai",
    "bookshelf": "bookshelves",
    "cactus": "cacti",
}


def make_prompts(count: int, seed: int = 0) -> tuple[str, ...]:
    """Make different prompts about everything: people, animals, things, places, styles, text.

    Subjects, sentences and words are gone through in shuffled rounds, so that a short list is
    varied already. A shorter list of the same seed is the beginning of a longer one.

    Args:
        count: how many.
        seed: which of the lists.

    Returns:
        The prompts, each once.

    Raises:
        OptionError: if there are not so many, or the seed is no seed.
    """
    if not 1 <= count <= MAX_PROMPTS:
        raise OptionError(Option("count"), f" must be 1 to {MAX_PROMPTS}, got {count}")
    if not 0 <= seed <= MAX_SEED:
        raise OptionError(Option("seed"), f" must be 0 to {MAX_SEED}, got {seed}")
    writer = _Writer(seed)
    prompts: dict[str, None] = {}
    while len(prompts) < count:
        frame, scene = writer.sentence()
        for _ in range(_ATTEMPTS):
            prompt = writer.fill(frame.replace("{scene}", scene))
            if prompt not in prompts:
                prompts[prompt] = None
                break
    return tuple(prompts)


def plural(noun: str) -> str:
    """The plural of an English noun, which may have words before it.

    >>> plural("snow leopard"), plural("fox"), plural("fairy"), plural("pair of scissors")
    ('snow leopards', 'foxes', 'fairies', 'pairs of scissors')
    """
    head, of, rest = noun.partition(" of ")
    *before, last = head.split()
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith(("s", "x", "ch", "sh", "mango")):
        last += "es"
    elif re.search(r"[^aeiou]y$", last):
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join([*before, last]) + of + rest


def with_articles(text: str) -> str:
    """Replace every ``a/an`` by the article that fits the sound of the word after it.

    >>> with_articles("a/an owl, a/an unicorn and a/an 8-bit fox")
    'an owl, a unicorn and an 8-bit fox'
    """

    def article(match: re.Match[str]) -> str:
        word = match[1]
        return f"{'an' if _AN.match(word) and not _A.match(word) else 'a'} {word}"

    return _ARTICLE.sub(article, text)


class _Writer:
    """Draws from every list as from a deck of cards: each word once before any twice."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._decks: dict[str, tuple[list[str], str]] = {}  # and the last word drawn

    def sentence(self) -> tuple[str, str]:
        """The next frame, and the next scene of the next subject."""
        subject = self._draw("subject", tuple(SCENES))
        return self._draw("frame", FRAMES), self._draw(f"scene of {subject}", SCENES[subject])

    def fill(self, sentence: str) -> str:
        """Put a word for each field, and for the fields within words."""
        while _FIELD.search(sentence):
            sentence = _FIELD.sub(self._word, sentence)
        sentence = with_articles(sentence)
        return sentence[0].upper() + sentence[1:] if sentence.endswith(".") else sentence

    def _word(self, field: re.Match[str]) -> str:
        word = self._draw(field[1], WORDS[field[1]])
        return plural(word) if field[2] else word

    def _draw(self, name: str, words: tuple[str, ...]) -> str:
        deck, last = self._decks.get(name, ([], ""))
        if not deck:
            deck = list(words)
            for i in range(len(deck) - 1, 0, -1):  # shuffle() may change between Pythons
                j = int(self._random.random() * (i + 1))
                deck[i], deck[j] = deck[j], deck[i]
            if deck[-1] == last:
                deck.reverse()
        word = deck.pop()
        self._decks[name] = deck, word
        return word

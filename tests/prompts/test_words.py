import re

from calibzarr.prompts.sentences import FRAMES, SCENES
from calibzarr.prompts.words import WORDS


def test_every_list_of_words_is_named_by_a_sentence_and_has_no_word_twice():
    sentences = [*FRAMES, *(scene for scenes in SCENES.values() for scene in scenes)]
    words = [word for words in WORDS.values() for word in words]
    named = set(re.findall(r"\{(\w+)", " ".join([*sentences, *words])))
    assert named == {*WORDS, "scene"}
    for words in WORDS.values():
        assert len(set(words)) == len(words)

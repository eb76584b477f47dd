from collections import Counter

import pytest

from calibzarr.prompts.shapes import CAPTION_WORDS, Scene, scenes, shuffled_scenes


@pytest.mark.parametrize(
    ("scene", "caption"),
    [
        (Scene("star", "red", "blue"), "a red star on a blue background"),
        (Scene("ring", "orange", "orange"), "an orange ring on an orange background"),
        (
            Scene("heart", "orange", "black", "small", "left"),
            "a small orange heart at the left on a black background",
        ),
    ],
)
def test_captions_say_what_is_unusual(scene, caption):
    assert scene.caption == caption


def test_every_scene_has_its_own_caption_of_known_words():
    captions = [scene.caption for scene in scenes()]
    assert len(captions) == len(set(captions)) == 8 * 8 * 7 * 3 * 5
    assert {word for caption in captions for word in caption.split()} == set(CAPTION_WORDS)
    assert len(set(CAPTION_WORDS)) == len(CAPTION_WORDS)


@pytest.mark.parametrize("word", ["shape", "colour", "background"])
def test_one_combination_in_eight_is_held_out_evenly(word):
    held_out = [scene for scene in scenes() if scene.held_out]
    assert len(held_out) == len(list(scenes())) / 8
    counts = Counter(getattr(scene, word) for scene in held_out)
    assert len(counts) == 8
    assert len(set(counts.values())) == 1


def test_shuffled_scenes_have_each_combination_once():
    shuffled = shuffled_scenes()
    assert len({(s.shape, s.colour, s.background) for s in shuffled}) == len(shuffled) == 448
    assert {s.size for s in shuffled[:50]} == {"medium", "small", "large"}
    assert shuffled == shuffled_scenes()

import numpy as np
import pytest

import calibzarr
from calibzarr.errors import OptionError, StoreError

pytestmark = pytest.mark.usefixtures("loaded_once")

CHOSEN = ("t_embedder.mlp.fc1", "mm_block_1.text.mlp.fc2", "final_layer.linear")


def test_values_are_those_that_the_layers_get(replayed):
    found = list(calibzarr.layer_inputs(replayed.path, CHOSEN, images=[4, 1], steps=[0, 2]))
    assert [(own.layers, own.images, own.step) for own in found] == [
        ((name,), (image,), step) for image in (4, 1) for step in (0, 2) for name in CHOSEN
    ]
    for own in found:
        expected = replayed.dumped[own.layers[0]][own.images[0], own.step]
        assert own.values.dtype == np.float32
        np.testing.assert_array_equal(own.values, expected)


def test_layers_that_share_their_input_get_one_array(replayed):
    patterns = ["mm_block_2.image.attn.?_proj", "mm_block_2.*.adaLN_modulation"]
    found = list(calibzarr.layer_inputs(replayed.path, patterns, images=1, steps=[1]))
    projections = tuple(f"mm_block_2.image.attn.{kind}_proj" for kind in "kqv")
    modulations = tuple(f"mm_block_2.{stream}.adaLN_modulation" for stream in ("image", "text"))
    assert {own.layers for own in found} == {
        projections,
        modulations,
        ("mm_block_2.image.attn.o_proj",),
    }
    for own in found:
        for name in own.layers:
            np.testing.assert_array_equal(own.values, replayed.dumped[name][0, 1])


def test_a_batch_has_prompts_first_then_negative_ones(replayed):
    (found,) = calibzarr.layer_inputs(
        replayed.path, "mm_block_0.image.mlp.fc1", images=2, steps=[1], batch_size=2
    )
    assert found.images == (0, 3)
    for row, (image, guidance) in enumerate([(0, 0), (3, 0), (0, 1), (3, 1)]):
        expected = replayed.dumped["mm_block_0.image.mlp.fc1"][image, 1][guidance]
        np.testing.assert_allclose(found.values[row], expected, atol=2e-5)


@pytest.mark.parametrize(
    ("layers", "options", "expected"),
    [
        ("mm_block_9*", {}, "no linear layer 'mm_block_9"),
        ("mm_block_0", {}, "no linear layer"),
        (CHOSEN, {"images": [99]}, "complete images"),
        (CHOSEN, {"images": 0}, "1 or more, got 0"),
        (CHOSEN, {"images": []}, "got none"),
        (CHOSEN, {"steps": [3]}, "from 0 to 2, got 3"),
        (CHOSEN, {"steps": "some"}, "key, all"),
        (CHOSEN, {"steps": []}, "got none"),
        (CHOSEN, {"batch_size": 0}, "1 or more, got 0"),
    ],
)
def test_what_is_not_there_is_refused_at_once(replayed, layers, options, expected):
    with pytest.raises(OptionError, match=expected):
        calibzarr.layer_inputs(replayed.path, layers, **options)


def test_a_store_without_images_is_refused(tmp_path):
    from tests.support import stores

    stores.create(tmp_path / "a.zarr")
    with pytest.raises(StoreError):
        calibzarr.layer_inputs(tmp_path / "a.zarr", CHOSEN)

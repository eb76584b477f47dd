import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

STEP = 1


@pytest.fixture(scope="module")
def call(tiny):
    """One model call on noise: what it gives, shape (image, channel, height, width)."""
    conditioning, schedule = tiny.encode(["a red circle"], 0.0), tiny.schedule(4)
    latents = tiny.initial_latents([1], 64, schedule)

    def run():
        with tiny.denoiser(conditioning, schedule, steps=[STEP]) as denoise:
            return tiny.to_numpy(denoise(latents, STEP))

    return run


def test_inputs_that_stay_change_nothing_and_every_layer_is_asked_once(tiny, call):
    expected, asked = call(), []

    def same(layer, inputs):
        asked.append(layer)
        assert inputs.shape[-1] == tiny.layers()[layer].features
        return inputs

    with tiny.transforming_inputs(same):
        np.testing.assert_array_equal(call(), expected)
    assert sorted(asked) == [i for i, own in enumerate(tiny.layers()) if own.role == "input"]


def test_a_layer_sees_what_the_transform_makes_of_its_input_and_no_other_does(tiny, call):
    """Nothing into the last layer leaves its bias alone: the same at every place."""
    (last,) = (i for i, own in enumerate(tiny.layers()) if own.name == "final_layer.linear")
    before, exact = nn.Linear.__call__, call()

    def nothing(layer, inputs):
        return mx.zeros_like(inputs) if layer == last else inputs

    with tiny.transforming_inputs(nothing):
        denoised = call()
    schedule = tiny.schedule(4)
    latents = tiny.to_numpy(tiny.initial_latents([1], 64, schedule))
    velocity = (latents - denoised) / schedule.sigma[STEP]
    patches = velocity.reshape(1, 16, 4, 2, 4, 2).transpose(2, 4, 1, 3, 5, 0).reshape(16, -1)
    np.testing.assert_allclose(patches, np.broadcast_to(patches[:1], patches.shape), atol=1e-4)
    assert patches.std() < ((latents - exact) / schedule.sigma[STEP]).std()
    assert nn.Linear.__call__ is before
    np.testing.assert_array_equal(call(), exact)


def test_linear_layers_are_as_before_after_an_exception(tiny, call):
    before = nn.Linear.__call__

    def fail(layer, inputs):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"), tiny.transforming_inputs(fail):
        call()
    assert nn.Linear.__call__ is before

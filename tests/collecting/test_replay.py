"""Calling a model again on stored states, and whether it is the one that made them."""

import dataclasses
import re

import numpy as np
import pytest

from calibzarr.collecting.replay import Batch, Replay, check_model
from calibzarr.errors import StoreError
from calibzarr.statistics.histogram import BINS
from calibzarr.storage.manifest import check_known, read_root
from tests.support import numpy_model
from tests.support.replaying import NUM_STEPS


@pytest.fixture(scope="module")
def root(replayed):
    return read_root(replayed.path)


def with_attributes(root, **attributes):
    return dataclasses.replace(root, attributes={**root.attributes, **attributes})


def test_a_replay_goes_on_to_the_next_stored_state(root, tiny):
    """Euler's step from a stored state with the replayed estimate is the state stored next."""
    replay = Replay.of(root, tiny)
    assert len(replay.prompts) == 7
    batch = replay.batch([4])
    assert batch.images == (4,)
    assert batch.latents.shape == (1, NUM_STEPS + 1, 16, 8, 8)
    sigma = batch.schedule.sigma
    for step in range(NUM_STEPS):
        state = batch.latents[:, step]
        denoised = tiny.to_numpy(batch.denoised(step))
        following = state + (state - denoised) / sigma[step] * (sigma[step + 1] - sigma[step])
        np.testing.assert_allclose(following, batch.latents[:, step + 1], atol=1e-5)


def test_layers_that_share_values_are_received_together(root, tiny, replayed):
    layers, received = tiny.layers(), {}
    batch = Replay.of(root, tiny).batch([1, 2])
    batch.observe(
        2,
        BINS,
        lambda indices, reduction: received.update(
            {layers[index].name: (reduction, indices) for index in indices}
        ),
    )
    assert received.keys() == {layer.name for layer in layers}
    for layer in layers:
        reduction, indices = received[layer.name]
        groups = {layers[index].input_group for index in indices}
        assert groups == {layer.input_group}
        values = replayed.values(layer.name, [2], [1, 2])
        np.testing.assert_allclose(
            reduction.feature_max, values.max(axis=(1, 2)), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize(
    ("name", "group", "message"),
    [
        ("mix0.value", "mix0.value", "observed of mix0.gate, mix0.value, but .* are mix0.gate"),
        ("head", "stem", "observed of stem, but the layers of the input_group stem are stem, head"),
    ],
)
def test_values_that_are_shared_otherwise_than_told_are_refused(monkeypatch, name, group, message):
    """Of whatever model: what is stored of layers is what was observed."""
    layers = tuple(
        dataclasses.replace(layer, input_group=group) if layer.name == name else layer
        for layer in numpy_model.LAYERS
    )
    monkeypatch.setattr(numpy_model, "LAYERS", layers)
    model = numpy_model.Mixer()
    latents = np.ones((1, 4, 3, 4, 4), np.float32)
    batch = Batch(model, model.schedule(3), model.encode(["a"], 0), (0,), latents)
    with pytest.raises(RuntimeError, match=message):
        batch.observe(1, BINS, lambda indices, reduction: None)


@pytest.mark.parametrize("name", ["model", "cfg_weight"])
def test_what_an_imported_store_does_not_say_is_asked_for(root, name):
    check_known(root.path, root.attributes)
    message = f"its {name} is not known; say it with: calibzarr.import_legacy('DIR', "
    with pytest.raises(StoreError, match=re.escape(message)):
        check_known(root.path, {**root.attributes, name: None})


def test_a_model_that_did_not_make_the_states_is_refused(root, tiny):
    assert check_model(root, tiny) is None
    with pytest.raises(StoreError, match="was built with weights of fingerprint 0123"):
        check_model(with_attributes(root, model_fingerprint="0123"), tiny)
    imported = with_attributes(root, model_fingerprint=None)
    assert "is not known" in check_model(imported, tiny)
    collected = {**root.attributes["activations"], "model_fingerprint": "0123"}
    with pytest.raises(StoreError, match="has statistics that were collected with weights"):
        check_model(with_attributes(imported, activations=collected), tiny)
    with pytest.raises(StoreError, match="has other latents than that model"):
        check_model(with_attributes(imported, image_size=128), tiny)


def test_a_model_of_other_noise_levels_is_refused(root, tiny, monkeypatch):
    schedule = tiny.schedule(NUM_STEPS)
    other = dataclasses.replace(schedule, sigma=schedule.sigma * np.float32(0.999))
    monkeypatch.setattr(tiny, "schedule", lambda num_steps: other)
    with pytest.raises(StoreError, match="has other noise levels than that model"):
        check_model(with_attributes(root, model_fingerprint=None), tiny)

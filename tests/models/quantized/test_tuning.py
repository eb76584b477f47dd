import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from calibzarr.models import registry
from tests.support import checkpoints
from tests.support.quantized_checkpoints import choice_of, write

HUB = Path(os.environ["HF_HUB_CACHE"])
SIZE = 64


@pytest.fixture(scope="module")
def choice(tiny):
    return choice_of(tiny, [(64, 3)])


def case_of(model, choice, cfg_weight):
    """Arguments of a step: what the unquantized model says of noise; and the grids."""
    schedule = model.schedule(3)
    latents = model.to_numpy(model.initial_latents([1, 2], SIZE, schedule))
    conditioning = model.encode(["a red circle", "two blue squares"], cfg_weight)
    with model.denoiser(conditioning, schedule, [1]) as denoise:
        denoised = model.to_numpy(denoise(model.from_numpy(latents), 1))
    velocity = (latents - denoised) / schedule.sigma[1]
    quantizers = dict(choice.quantized())
    grids = {
        index: model.levels_of_weight(layer, quantizers[layer].group_size, quantizers[layer].bits)
        for index, layer in enumerate(model.layers())
        if layer in quantizers
    }
    return (latents, conditioning, schedule, 1, velocity), grids


@pytest.fixture
def case(tiny, choice):
    return case_of(tiny, choice, 3.0)


def loss_with(tiny, directory, case):
    """The loss of a checkpoint, by the model that others load."""
    latents, conditioning, schedule, step, velocity = case
    model = tiny.with_checkpoint(directory)
    with model.denoiser(conditioning, schedule, [step]) as denoise:
        denoised = model.to_numpy(denoise(model.from_numpy(latents), step))
    return float(np.square((latents - denoised) / schedule.sigma[step] - velocity).mean())


def test_the_loss_is_that_of_the_checkpoint_and_falls(tiny, choice, case, tmp_path):
    arguments, grids = case
    tuner = tiny.tuner(grids)
    losses = [tuner.step(*arguments, 1e-4) for _ in range(4)]
    expected = loss_with(tiny, write(tmp_path / "out", tiny, choice), arguments)
    assert losses[0] == pytest.approx(expected, rel=1e-3)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd3-medium", "flux-schnell"])
def test_losses_of_16_bit_transformers_fall(name, tmp_path, monkeypatch):
    checkpoints.write(name, HUB)
    checkpoints.use_small_sizes(monkeypatch)
    model = registry.load(name)
    shutil.rmtree(HUB, ignore_errors=True)
    chosen = choice_of(model, [(32, 3)])
    arguments, grids = case_of(model, chosen, 4.5 if name == "sd3-medium" else 0.0)
    tuner = model.tuner(grids)
    losses = [tuner.step(*arguments, 1e-4) for _ in range(6)]
    expected = loss_with(model, write(tmp_path / "out", model, chosen), arguments)
    assert losses[0] == pytest.approx(expected, rel=0.05)
    assert losses[-1] < 0.9 * losses[0]


def test_gradients_are_differences_of_the_loss(tiny, case):
    arguments, grids = case
    names = ["context_embedder", "mm_block_0.image.adaLN_modulation", "mm_block_2.text.mlp.fc1"]
    indices = [i for i, layer in enumerate(tiny.layers()) if layer.name in names]
    assert len(indices) == 3
    tuner = tiny.tuner(grids)
    seen = []
    original = tuner.gradients
    tuner.gradients = lambda *given: seen.append(original(*given)) or seen[-1]
    tuner.step(*arguments, 0.0)
    _, gradients = seen[0]
    for index in indices:
        for name, part in (("scales", 1), ("biases", 2)):
            gradient = np.asarray(gradients[f"{name}-{index}"])
            direction = np.sign(gradient) * np.abs(grids[index][part]).mean() * 1e-2
            losses = []
            for sign in (1, -1):
                moved = list(grids[index])
                moved[part] = moved[part] + sign * direction
                losses.append(tiny.tuner({**grids, index: tuple(moved)}).step(*arguments, 0.0))
            slope = (losses[0] - losses[1]) / 2
            assert slope == pytest.approx(float((gradient * direction).sum()), rel=0.05)


def test_restored_it_goes_on_as_if_nothing_was(tiny, case):
    arguments, grids = case
    through, stopped, later = (tiny.tuner(grids) for _ in range(3))
    for rate in (1e-4, 5e-5):
        through.step(*arguments, rate)
    stopped.step(*arguments, 1e-4)
    later.restore(stopped.state())
    later.step(*arguments, 5e-5)
    for index, parts in through.scales().items():
        for expected, actual in zip(parts, later.scales()[index], strict=True):
            assert np.array_equal(expected, actual)
            assert np.array_equal(actual, actual.astype(np.float16))


def test_the_model_stays_as_it_is(tiny, case):
    arguments, grids = case
    before = {path: tiny.parameter(path) for path in tiny.parameters()}
    tiny.tuner(grids).step(*arguments, 1e-4)
    assert before.keys() == tiny.parameters().keys()
    assert all(np.array_equal(value, tiny.parameter(path)) for path, value in before.items())

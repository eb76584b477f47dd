import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from calibzarr.models.base import QuantizableModel
from calibzarr.models.modulation import CACHE
from calibzarr.models.quantized import fake_quantization
from calibzarr.models.quantized.fake_quantization import FakeQuantization
from tests.support.configurations import of_model

NUM_STEPS = 6
BITS = (3, 5, 8)  # by phase
RANGES = {"context_embedder": (-0.5, 0.75), "final_layer": (-2.0, 2.0)}


@pytest.fixture(scope="module")
def schedule(tiny):
    return tiny.schedule(NUM_STEPS)


@pytest.fixture(scope="module")
def conditioning(tiny):
    return tiny.encode(["a red circle", "two blue squares"], 3.0)


def outputs(model, conditioning, schedule, steps=None):
    """Of calls on the same noise, by step, shape (image, channel, height, width)."""
    noise = model.initial_latents([1, 2], 64, schedule)
    chosen = range(NUM_STEPS) if steps is None else steps
    with model.denoiser(conditioning, schedule, steps) as denoise:
        return {step: model.to_numpy(denoise(noise, step)) for step in chosen}


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for step, values in expected.items():
        np.testing.assert_array_equal(actual[step], values)


def quantized(values, layer, sigma, configuration):
    """What a layer is to read at a call: by the file alone, in NumPy."""
    row = configuration.content["layer_configs"][layer]
    said = row["activation"]
    if configuration.by_phase:
        (name,) = (
            name
            for name, phase in configuration.content["phases"].items()
            if (phase["sigma_min"] or 0) < sigma <= (phase["sigma_max"] or np.inf)
        )
        said = row["phases"][name]
    if said is None:
        return values
    one, highest = np.float32(1), said["highest"]
    if "scale" in said:
        scale, zero_point = np.float32(said["scale"]), np.float32(said["zero_point"])
    else:
        low = np.minimum(values.min(axis=-1, keepdims=True), 0)
        scale = (np.maximum(values.max(axis=-1, keepdims=True), 0) - low) / np.float32(highest)
        scale = np.where(scale > 0, scale, one)
        zero_point = -np.rint(low / scale)
    return scale * (np.clip(np.rint(values / scale) + zero_point, 0, highest) - zero_point)


def with_inputs_by_numpy(model, configuration, conditioning, schedule, step):
    """One call of the plain model on inputs that NumPy quantizes."""
    names = [layer.name for layer in model.layers()]

    def transform(index, inputs):
        values = np.asarray(inputs.astype(mx.float32))
        result = quantized(values, names[index], schedule.sigma[step], configuration)
        return mx.array(result).astype(inputs.dtype)

    with model.transforming_inputs(transform):
        return outputs(model, conditioning, schedule, [step])[step]


def test_a_configuration_of_nothing_changes_no_bit(tiny, schedule, conditioning):
    assert isinstance(tiny, QuantizableModel)
    model = tiny.quantized(of_model(tiny))
    expected = outputs(tiny, conditioning, schedule)
    assert_equal(outputs(model, conditioning, schedule), expected)
    assert model.fingerprint == tiny.fingerprint


@pytest.mark.parametrize("scheme", ["tensor", "row", "mlx-64"])
def test_weights_are_those_that_numpy_or_mlx_quantizes(tiny, schedule, conditioning, scheme):
    configuration = of_model(tiny, weight=3, weights=scheme)
    model = tiny.quantized(configuration)
    modules = dict(tiny.pipeline.mmdit.named_modules())
    linear = [layer for layer in tiny.layers() if layer.role == "input" and not layer.cached]
    before = {layer.name: modules[layer.module].weight for layer in linear}
    with model.denoiser(conditioning, schedule):
        inside = {layer.name: np.array(modules[layer.module].weight) for layer in linear}
    for layer in linear:
        assert modules[layer.module].weight is before[layer.name]
        weight = tiny.weight(layer)
        if scheme == "mlx-64":
            group = mx.quantize(mx.array(weight).astype(mx.float16), group_size=64, bits=3)
            levels, *ends = group
            full = [end.astype(mx.float32) for end in ends]
            expected = mx.dequantize(levels, *full, group_size=64, bits=3)
        else:
            reach = np.abs(weight).max(axis=None if scheme == "tensor" else 1, keepdims=True)
            scales = (np.linspace(0.3, 1, 36) / 3).astype(np.float32)[:, None, None] * reach
            tried = scales * np.clip(np.rint(weight / scales), -3, 3)
            axes = (1, 2) if scheme == "tensor" else 2
            errors = np.square(weight - tried).sum(axis=axes, keepdims=True)
            expected = np.take_along_axis(
                tried, errors.argmin(axis=0, keepdims=True) * np.ones(weight.shape, int)[None], 0
            )[0]
        np.testing.assert_array_equal(inside[layer.name], np.array(expected))


@pytest.mark.parametrize(
    "options",
    [
        {"activation": 6},
        {"activation": 6, "phases": BITS},
        {"activation": 5, "scheme": "token"},
        {"phases": BITS, "scheme": "token"},
    ],
)
def test_inputs_are_those_that_numpy_quantizes(tiny, schedule, conditioning, options):
    configuration = of_model(tiny, ranges=RANGES, **options)
    actual = outputs(tiny.quantized(configuration), conditioning, schedule)
    assert len({configuration.activations(float(sigma)) for sigma in schedule.sigma[:-1]}) == (
        3 if "phases" in options else 1
    )
    for step in (0, 2, NUM_STEPS - 1):
        expected = with_inputs_by_numpy(tiny, configuration, conditioning, schedule, step)
        np.testing.assert_array_equal(actual[step], expected)


def test_a_call_alone_is_the_call_among_all(tiny, schedule, conditioning):
    model = tiny.quantized(of_model(tiny, weight=4, phases=BITS))
    every = outputs(model, conditioning, schedule)
    for step in (1, 4):
        assert_equal(outputs(model, conditioning, schedule, [step]), {step: every[step]})


def test_modulation_of_each_phase_is_that_of_a_direct_computation(tiny, schedule, conditioning):
    configuration = of_model(tiny, weight=4, phases=BITS, keep=())
    mmdit = tiny.pipeline.mmdit
    fake = FakeQuantization(mmdit, tiny.layers(), configuration)
    modules = dict(mmdit.named_modules())
    weights = {
        layer.name: fake_quantization.quantized_weights(
            mx.array(modules[layer.module].weight), configured.weight
        )
        for layer, configured in zip(
            (layer for layer in tiny.layers() if layer.role == "input"),
            configuration.layers,
            strict=True,
        )
    }
    path = {layer.name: layer.module for layer in tiny.layers()}

    def linear(name, x, sigma):
        inputs = mx.array(quantized(np.array(x), name, sigma, configuration))
        return mx.addmm(modules[path[name]].bias, inputs, weights[name].T)

    timesteps = mx.array(schedule.timestep)
    rows = len(conditioning.pooled)
    with fake.modulated(conditioning.pooled, timesteps, schedule.sigma, range(NUM_STEPS)) as at:
        cached = {}
        for step in range(NUM_STEPS):
            with at(step):
                for number in (0, 3):
                    block = mmdit.multimodal_transformer_blocks[number].image_transformer_block
                    cached[step, number] = block[CACHE][timesteps[step].item()]
    for (step, number), actual in cached.items():
        sigma = schedule.sigma[step]
        y = linear("y_embedder.mlp.fc1", conditioning.pooled, sigma)
        y = linear("y_embedder.mlp.fc2", nn.silu(y), sigma)
        told = mx.repeat(timesteps[step][None], rows, axis=0)
        frequencies = mmdit.t_embedder.timestep_embedding(told)[:, None, None, :]
        t = linear("t_embedder.mlp.fc1", frequencies, sigma)
        t = linear("t_embedder.mlp.fc2", nn.silu(t), sigma)
        name = f"mm_block_{number}.image.adaLN_modulation"
        expected = linear(name, nn.silu(y[:, None, None, :] + t), sigma)
        np.testing.assert_array_equal(np.array(actual), np.array(expected))


def test_calls_of_two_phases_that_are_told_one_timestep_keep_their_own(tiny, conditioning):
    configuration = of_model(tiny, phases=BITS)
    fake = FakeQuantization(tiny.pipeline.mmdit, tiny.layers(), configuration)
    sigma, timesteps = np.array([0.71, 0.69], np.float32), mx.array([700.0, 700.0])
    block = tiny.pipeline.mmdit.final_layer
    with fake.modulated(conditioning.pooled, timesteps, sigma, [0, 1]) as at:
        found = []
        for step in (0, 1, 0):
            with at(step):
                found.append(np.array(block[CACHE][700.0]))
    assert (found[0] != found[1]).any()
    np.testing.assert_array_equal(found[0], found[2])


def test_an_array_that_several_layers_read_is_quantized_once(
    tiny, schedule, conditioning, monkeypatch
):
    model = tiny.quantized(of_model(tiny, activation=4))
    inputs, quantize = [], fake_quantization.quantized_inputs

    def counting(x, quantization):
        inputs.append(x)
        return quantize(x, quantization)

    with model.denoiser(conditioning, schedule, [1]) as denoise:
        monkeypatch.setattr(fake_quantization, "quantized_inputs", counting)
        denoise(tiny.initial_latents([1, 2], 64, schedule), 1)
    calls = [layer for layer in tiny.layers() if layer.role == "input" and not layer.cached]
    assert len(inputs) == len({layer.input_group for layer in calls}) < len(calls)


def test_the_model_stays_as_it_was_also_after_a_failure(tiny, schedule, conditioning):
    mmdit = tiny.pipeline.mmdit
    before, call = dict(tree_flatten(mmdit.parameters())), nn.Linear.__call__
    expected = outputs(tiny, conditioning, schedule, [1])
    model = tiny.quantized(of_model(tiny, weight=4, phases=BITS))
    with pytest.raises(KeyError), model.denoiser(conditioning, schedule, [1]) as denoise:
        denoise(tiny.initial_latents([1, 2], 64, schedule), NUM_STEPS + 1)
    assert nn.Linear.__call__ is call
    after = dict(tree_flatten(mmdit.parameters()))
    assert all(after[name] is array for name, array in before.items())
    assert after.keys() == before.keys()
    assert_equal(outputs(tiny, conditioning, schedule, [1]), expected)

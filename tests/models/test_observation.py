import dataclasses

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import calibzarr
from calibzarr.models import observation, registry
from calibzarr.models.diffusionkit import DiffusionKitModel, TextConditioning, kit
from calibzarr.sampling.sampler import euler_states
from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.reduction import reduce
from tests.support import checkpoints

BINS = LogBins()
PROMPTS = ["a red circle on a blue background", "something else"]


def small_flux():
    """A FLUX-style transformer: one image batch needs no text encoder to be observed."""
    pipeline = kit.FluxPipeline.__new__(kit.FluxPipeline)
    pipeline.activation_dtype = mx.float32
    pipeline.sampler = kit.FluxSampler(shift=1.0)
    pipeline.mmdit = checkpoints.modules("flux-schnell")["mmdit"]
    pipeline.mmdit.set_dtype(mx.float32)
    return DiffusionKitModel("flux", pipeline)


def flux_conditioning(model):
    config = model.pipeline.mmdit.config
    key = mx.random.key(0)
    tokens = mx.random.normal((2, 5, config.token_level_text_embed_dim), key=key)
    pooled = mx.random.normal((2, config.pooled_text_embed_dim), key=key)
    return TextConditioning(tokens, pooled, cfg_weight=0.0)


@pytest.fixture(scope="module", params=["sd3", "flux"])
def case(request, tiny):
    """A model, and a batch of two prompts for it."""
    if request.param == "sd3":
        return tiny, tiny.encode(PROMPTS, 3.0)
    model = small_flux()
    return model, flux_conditioning(model)


def tree(model):
    return {
        name: np.array(value) for name, value in tree_flatten(model.pipeline.mmdit.parameters())
    }


def run(case, step=1, observe=True, reduce_arrays=None, receive=None):
    """One model call on noise, observed or not; denoised latents and reductions by layer."""
    model, conditioning = case
    schedule = model.schedule(4)
    x = model.initial_latents([1, 2], 64, schedule)
    reductions = {}

    def keep(layers, reduction):
        reductions.update(dict.fromkeys(layers, reduction))

    def denoise():
        with model.denoiser(conditioning, schedule, [step]) as denoise:
            return np.array(denoise(x, step))

    if not observe:
        return denoise(), reductions
    with observation.observing(
        model.pipeline.mmdit, model.layers(), 2, BINS, receive or keep, reduce_arrays
    ):
        denoised = denoise()
    return denoised, reductions


def test_observing_changes_neither_output_nor_parameters(case):
    before = tree(case[0])
    linear, block = nn.Linear.__call__, kit.mmdit.MultiModalTransformerBlock.__call__
    bare, _ = run(case, observe=False)
    observed, reductions = run(case)
    np.testing.assert_array_equal(observed, bare)
    assert set(reductions) == set(range(len(case[0].layers())))
    after = tree(case[0])
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[name], before[name]) for name in before)
    assert nn.Linear.__call__ is linear
    assert kit.mmdit.MultiModalTransformerBlock.__call__ is block


def test_everything_is_put_back_after_an_exception(case):
    before = tree(case[0])
    linear, block = nn.Linear.__call__, kit.mmdit.UnifiedTransformerBlock.__call__

    def fail(layers, reduction):
        raise MemoryError

    with pytest.raises(MemoryError):
        run(case, receive=fail)
    assert nn.Linear.__call__ is linear
    assert kit.mmdit.UnifiedTransformerBlock.__call__ is block
    after = tree(case[0])
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[name], before[name]) for name in before)
    np.testing.assert_array_equal(run(case)[0], run(case, observe=False)[0])


def dump(case, monkeypatch):
    """All values at every layer, kept by wrapping modules one by one: an independent tap."""
    model = case[0]
    names = {id(m): path for path, m in model.pipeline.mmdit.named_modules()}
    dumped = {}
    for class_ in (nn.Linear, *_blocks()):
        original = class_.__call__

        def call(module, *args, original=original, **kwargs):
            result = original(module, *args, **kwargs)
            path = names.get(id(module))
            if isinstance(module, nn.Linear):
                dumped[path, "input", 0] = np.array(args[0].astype(mx.float32))
            else:
                for stream, values in enumerate(_streams(result)):
                    dumped[path, "output", stream] = np.array(values.astype(mx.float32))
            return result

        monkeypatch.setattr(class_, "__call__", call)
    run(case, observe=False)
    monkeypatch.undo()
    return dumped


def _blocks():
    return kit.mmdit.MultiModalTransformerBlock, kit.mmdit.UnifiedTransformerBlock


def _streams(result):
    streams = result if isinstance(result, tuple) else (result,)
    return [values for values in streams if values is not None]


@pytest.mark.parametrize("where", ["reduce_on_host", "reduce_on_device"])
def test_reductions_are_of_every_value_that_a_dump_sees(case, monkeypatch, where):
    _, reductions = run(case, reduce_arrays=getattr(observation, where))
    dumped = dump(case, monkeypatch)
    for index, layer in enumerate(case[0].layers()):
        stream = int(layer.role == "output" and layer.stream == "text")
        values = dumped.pop((layer.module, layer.role, stream))
        assert values.shape[-1] == layer.features
        guidance = len(values) // 2
        expected = reduce(values.reshape(guidance, 2, -1, layer.features), BINS)
        actual = reductions[index]
        for name in ("histogram", "value_count", "feature_min", "feature_max", "non_finite"):
            np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name))
        scale = np.abs(values).sum()
        np.testing.assert_allclose(actual.value_sum, expected.value_sum, atol=1e-6 * scale)
        np.testing.assert_allclose(actual.square_sum, expected.square_sum, rtol=1e-5)
    assert not dumped  # nothing flows through a linear layer or a block unobserved


def test_shared_inputs_are_reduced_once(case):
    calls = []

    def count(arrays, bins):
        calls.extend(arrays)
        return observation.reduce_on_host(arrays, bins)

    model = case[0]
    _, reductions = run(case, reduce_arrays=count)
    assert len(calls) == len({id(reduction) for reduction in reductions.values()})
    names = [layer.name for layer in model.layers()]
    prefix = "mm_block_0.image.attn"
    q, k, v = (reductions[names.index(f"{prefix}.{n}_proj")] for n in "qkv")
    assert q is k is v
    if "unified_block_0.mlp.fc1" in names:  # FLUX's parallel MLP reads what attention reads
        fc1 = reductions[names.index("unified_block_0.mlp.fc1")]
        assert fc1 is reductions[names.index("unified_block_0.attn.q_proj")]


def observe_as(case, name, **changes):
    """One observed call with other words about a layer than its model's."""
    model = case[0]
    layers = tuple(
        dataclasses.replace(layer, **changes) if layer.name == name else layer
        for layer in model.layers()
    )
    schedule = model.schedule(4)
    x = model.initial_latents([1, 2], 64, schedule)
    with (
        observation.observing(model.pipeline.mmdit, layers, 2, BINS, lambda *seen: None),
        model.denoiser(case[1], schedule, [1]) as denoise,
    ):
        denoise(x, 1)


def test_arrays_that_are_shared_otherwise_than_told_are_refused(case):
    k, v, o = (f"mm_block_0.image.attn.{kind}_proj" for kind in "kvo")
    with pytest.raises(RuntimeError, match=f"{v} reads the array that {k} reads"):
        observe_as(case, v, input_group=v)
    with pytest.raises(RuntimeError, match=f"{o} does not read the values that {k} reads"):
        observe_as(case, o, input_group=k)
    observe_as(case, o)


def test_groups_are_named_by_their_first_layer(case):
    layers = case[0].layers()
    names = [layer.name for layer in layers]
    for index, layer in enumerate(layers):
        for group in (layer.input_group, layer.tied_group):
            assert names.index(group) <= index
        assert layers[names.index(layer.input_group)].input_group == layer.input_group
        assert layers[names.index(layer.tied_group)].tied_group == layer.tied_group


def test_what_depends_on_the_text_alone_is_the_same_at_every_step(case):
    first, last = (run(case, step=step)[1] for step in (0, 3))
    for index, layer in enumerate(case[0].layers()):
        same = np.array_equal(first[index].feature_max, last[index].feature_max)
        assert same == layer.text_only, layer.name


def test_activation_functions_that_inputs_leave(case):
    """Whatever leaves a GELU or a SiLU is not below its least value; others are."""
    _, reductions = run(case)
    least = {"gelu": -0.17, "silu": -0.2785}
    for index, layer in enumerate(case[0].layers()):
        if layer.follows:
            assert reductions[index].feature_min.min() >= least[layer.follows]
    follows = {layer.kind: layer.follows for layer in case[0].layers() if "block" in layer.block}
    expected = {kind: "" for kind in follows} | {"mlp.fc2": "gelu", "adaLN_modulation": "silu"}
    assert follows == expected


def test_observed_values_in_a_replay_are_those_of_the_sampling(tiny, tmp_path, monkeypatch):
    """Every input, bit for bit, at a step reached by sampling and the same replayed from a store.

    Those of adaLN and the embedders, which run once for each step before the first, included.
    """
    monkeypatch.setattr(registry, "load", lambda name: tiny)
    calibzarr.build(tmp_path / "a.zarr", num_images=2, num_steps=4)
    dataset = calibzarr.open_store(tmp_path / "a.zarr")
    schedule = tiny.schedule(4)
    conditioning = tiny.encode([str(dataset.prompt.values[1])], 3.0)
    seen = []
    original = nn.Linear.__call__

    def call(module, x):
        seen.append(np.array(x))
        return original(module, x)

    monkeypatch.setattr(nn.Linear, "__call__", call)
    sampling = euler_states(tiny, conditioning, schedule, [1], 64)
    next(sampling)
    seen.clear()
    next(sampling)  # prepares all five steps, then runs step 0
    pooled, by_step = 2, 2 + 2 * 4 + 1  # linear layers: y_embedder; t_embedder, adaLN
    step = 2
    prepared = seen[:pooled] + seen[pooled + step * by_step : pooled + (step + 1) * by_step]
    next(sampling)
    seen.clear()
    next(sampling)  # runs step 2
    sampled = prepared + seen
    sampling.close()
    seen = []
    x = tiny.from_numpy(dataset.latents.values[[1], step])
    with tiny.denoiser(conditioning, schedule, [step]) as denoise:
        denoise(x, step)
    assert len(sampled) == len(seen) == sum(layer.role == "input" for layer in tiny.layers())
    for expected, actual in zip(sampled, seen, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_layer_that_is_never_called_is_named(tiny):
    with (
        pytest.raises(RuntimeError, match=r"67 of 67 layers were never called.*t_embedder"),
        tiny.observing(1, BINS, lambda layers, reduction: None),
    ):
        pass


def test_sixteen_bit_activations_are_counted_exactly():
    generator = np.random.default_rng(0)
    for dtype in (mx.float16, mx.bfloat16):
        values = mx.array(generator.standard_t(2, (2, 2, 30, 8)).astype(np.float32)).astype(dtype)
        wide = np.array(values.astype(mx.float32))
        for reduce_arrays in (observation.reduce_on_host, observation.reduce_on_device):
            (actual,) = reduce_arrays([values.astype(mx.float32)], BINS)
            np.testing.assert_array_equal(actual.histogram, BINS.counts(wide.ravel()))


def test_device_counts_non_finite_values_apart():
    values = np.random.default_rng(0).standard_normal((2, 2, 3, 4)).astype(np.float32)
    values[0, 0, 0, 0], values[1, 1, 2, 1], values[0, 1, 1, 3] = np.nan, np.inf, -np.inf
    (host,) = observation.reduce_on_host([mx.array(values)], BINS)
    (device,) = observation.reduce_on_device([mx.array(values)], BINS)
    assert host.non_finite == device.non_finite == 3
    for name in ("histogram", "value_count", "feature_min", "feature_max"):
        np.testing.assert_array_equal(getattr(device, name), getattr(host, name))
    np.testing.assert_allclose(device.value_sum, host.value_sum, rtol=1e-5)

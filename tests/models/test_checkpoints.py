import os
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import sentencepiece
from mlx.utils import tree_flatten
from transformers import CLIPTokenizer

from calibzarr.collecting.replay import cached_layers
from calibzarr.errors import MissingFilesError
from calibzarr.models import builtin, registry
from calibzarr.models.compatibility import lenient_updates, metal_names
from calibzarr.models.diffusionkit import DiffusionKitModel, kit
from calibzarr.models.loading.pipelines import FluxPipeline, SD3Pipeline
from calibzarr.quantization.levels import BITS
from calibzarr.quantization.quantizers import (
    ACTIVATION_QUANTIZERS,
    QUANTIZERS,
    QuantizationErrors,
    Quantizer,
    quantized_by_tensor,
    quantized_by_token,
    quantized_weight,
)
from calibzarr.sampling.sampler import euler_states
from calibzarr.statistics.histogram import BINS
from tests.support import checkpoints
from tests.support.configurations import of_model
from tests.support.scripts import mixed_prompts

HUB = Path(os.environ["HF_HUB_CACHE"])
PROMPT = "The red circle, 7 cats: QX!"
SEED = 5
NUM_STEPS = 3
CFG_WEIGHT = {"sd3-medium": 4.5, "flux-dev": 0.0}
ACTIVATION_DTYPE = {"sd3-medium": "float16", "flux-dev": "bfloat16"}
SHIFT = {"sd3-medium": 3.0, "flux-dev": 1.0}
REPOSITORY = {name: builtin.MODELS[name].repository for name in CFG_WEIGHT}


@pytest.fixture(scope="module", params=list(CFG_WEIGHT))
def checkpoint(request):
    """Name of a model whose small checkpoint is in the cache, and which loads at that size."""
    checkpoints.write(request.param, HUB)
    with pytest.MonkeyPatch.context() as monkeypatch:
        checkpoints.use_small_sizes(monkeypatch)
        yield request.param
    shutil.rmtree(HUB)


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return registry.load(checkpoint)


@pytest.fixture
def hub_copy(checkpoint, tmp_path, monkeypatch):
    """A copy of the cache, used in its place, for a test to spoil."""
    hub = tmp_path / "hub"
    shutil.copytree(HUB, hub)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    return hub


@pytest.fixture
def empty_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))


class SentencePieces:
    """T5's tokenizer from the sentencepiece library itself."""

    max_length = checkpoints.T5_LENGTH
    pad_to_max_length = True
    pad_with_eos = False

    def __init__(self):
        model = checkpoints.sentencepiece_model()
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    def tokenize(self, text):
        return [*self.processor.encode(text)[: self.max_length - 1], self.processor.eos_id()]


def directly_built(name):
    """The model with a checkpoint's weights put straight into its modules: no file, no loader."""
    is_flux = name == "flux-dev"
    pipeline_class = FluxPipeline if is_flux else SD3Pipeline
    pipeline = pipeline_class.__new__(pipeline_class)
    pipeline.model_version = REPOSITORY[name]
    pipeline.activation_dtype = mx.bfloat16 if is_flux else mx.float16
    pipeline.use_t5 = True
    if is_flux:
        pipeline.sampler = kit.FluxSampler(shift=1.0)
        pipeline.latent_format = kit.FluxLatentFormat()
    else:
        pipeline.sampler = kit.ModelSamplingDiscreteFlow(shift=3.0)
        pipeline.latent_format = kit.SD3LatentFormat()
    for part, module in checkpoints.modules(name).items():
        module.set_dtype(mx.float32 if part == "encoder" else pipeline.activation_dtype)
        setattr(pipeline, part, module)
    ranks = {pair: rank for rank, pair in enumerate(checkpoints.BPE_MERGES)}
    vocabulary = checkpoints.bpe_vocabulary()
    pipeline.tokenizer_l = kit.tokenizer.Tokenizer(ranks, vocabulary, pad_with_eos=True)
    pipeline.tokenizer_g = kit.tokenizer.Tokenizer(ranks, vocabulary, pad_with_eos=False)
    pipeline.t5_tokenizer = SentencePieces()
    return DiffusionKitModel(name, pipeline)


def sample(model):
    """All states, shape (step, channel, height, width), and the decoded picture."""
    cfg_weight = CFG_WEIGHT[model.name]
    conditioning = model.encode([PROMPT], cfg_weight)
    schedule = model.schedule(NUM_STEPS)
    size = checkpoints.IMAGE_SIZE
    states = euler_states(model, conditioning, schedule, [SEED], size)
    states = np.stack([model.to_numpy(state)[0] for state in states])
    return states, model.decode(states[-1])


def theirs():
    """DiffusionKit's own pipeline, loaded by its own constructor."""
    with lenient_updates():
        return kit.DiffusionPipeline(
            w16=True,
            a16=True,
            shift=3.0,
            use_t5=True,
            model_version=REPOSITORY["sd3-medium"],
            low_memory_mode=False,
        )


def generate_with_diffusionkit(pipeline, cfg_weight, monkeypatch):
    """The same from DiffusionKit's own ``generate_image``."""
    states = []
    sample_euler = kit.sample_euler

    class RecordingDenoiser(kit.CFGDenoiser):
        def __call__(self, x, *args, **kwargs):
            states.append(x)
            return super().__call__(x, *args, **kwargs)

    def record_final(denoiser, *args, **kwargs):
        final, seconds = sample_euler(denoiser, *args, **kwargs)
        states.append(final)
        return final, seconds

    monkeypatch.setattr(kit, "CFGDenoiser", RecordingDenoiser)
    monkeypatch.setattr(kit, "sample_euler", record_final)
    extent = checkpoints.IMAGE_SIZE // 8
    with metal_names():
        picture, _ = pipeline.generate_image(
            PROMPT,
            num_steps=NUM_STEPS,
            cfg_weight=cfg_weight,
            latent_size=(extent, extent),
            seed=SEED,
            verbose=False,
        )
    states = np.stack([np.array(x[0].astype(mx.float32)).transpose(2, 0, 1) for x in states])
    return states, np.array(picture)


def parameters(module):
    return {
        name: (value.dtype, np.array(value.astype(mx.float32)))
        for name, value in tree_flatten(module.parameters())
    }


def test_loading_gives_what_the_weights_give_directly(loaded):
    direct = directly_built(loaded.name)
    for part in checkpoints.modules(loaded.name):
        actual = parameters(getattr(loaded.pipeline, part))
        expected = parameters(getattr(direct.pipeline, part))
        assert actual.keys() == expected.keys()
        for name, (dtype, values) in expected.items():
            assert actual[name][0] == dtype, name
            np.testing.assert_array_equal(actual[name][1], values, err_msg=name)
    assert loaded.fingerprint == direct.fingerprint
    states, picture = sample(loaded)
    expected_states, expected_picture = sample(direct)
    np.testing.assert_array_equal(states, expected_states)
    np.testing.assert_array_equal(picture, expected_picture)
    assert np.isfinite(states).all()
    assert picture.std() > 10  # a picture, not a grey square


def test_states_and_picture_equal_those_of_generate_image(loaded, monkeypatch):
    states, picture = sample(loaded)
    other = theirs() if loaded.name == "sd3-medium" else registry.load(loaded.name).pipeline
    assert DiffusionKitModel(loaded.name, other).fingerprint == loaded.fingerprint
    expected_states, expected_picture = generate_with_diffusionkit(
        other, CFG_WEIGHT[loaded.name], monkeypatch
    )
    assert len(states) == NUM_STEPS + 1
    np.testing.assert_array_equal(states, expected_states)
    np.testing.assert_array_equal(picture, expected_picture)


def test_sampling_leaves_every_parameter_as_it_was(loaded):
    before = parameters(loaded.pipeline.mmdit)
    sample(loaded)
    after = parameters(loaded.pipeline.mmdit)
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[name][1], before[name][1]) for name in before)


def test_cached_layers_see_ahead_of_all_calls_what_they_see_ahead_of_one(loaded):
    conditioning, schedule = loaded.encode([PROMPT], CFG_WEIGHT[loaded.name]), loaded.schedule(4)
    before, alone = parameters(loaded.pipeline.mmdit), {}
    loaded.observe_cached(
        *(conditioning, schedule, range(4), 1, BINS),
        lambda step, layers, reduction: alone.update({(step, i): reduction for i in layers}),
    )
    after = parameters(loaded.pipeline.mmdit)
    assert all(np.array_equal(after[name][1], before[name][1]) for name in before)
    latents = loaded.initial_latents([0], checkpoints.IMAGE_SIZE, schedule)
    cached = cached_layers(loaded)
    assert alone.keys() == {(step, index) for step in range(4) for index in cached}
    for step in range(4):
        seen = {}
        with (
            loaded.observing(
                1,
                BINS,
                lambda layers, values, seen=seen: seen.update(dict.fromkeys(layers, values)),
            ),
            loaded.denoiser(conditioning, schedule, [step]) as denoise,
        ):
            denoise(latents, step)
        for index in cached:
            np.testing.assert_array_equal(alone[step, index].histogram, seen[index].histogram)
            np.testing.assert_array_equal(alone[step, index].feature_max, seen[index].feature_max)


def test_model_is_what_the_registry_says(loaded):
    entry = builtin.MODELS[loaded.name]
    size = checkpoints.IMAGE_SIZE
    assert loaded.activation_dtype == ACTIVATION_DTYPE[loaded.name]
    assert loaded.latent_shape(size) == entry.latent_shape(size)
    assert loaded.sampler == f"euler(shift={SHIFT[loaded.name]})"


def test_clip_reads_prompts_of_all_scripts_as_transformers_does(loaded):
    files = checkpoints.snapshot(HUB, checkpoints.TEXT_REPOSITORY)
    for encoder, tokenizer in loaded.tokenizers().items():
        if encoder == "t5":
            continue
        expected = CLIPTokenizer.from_pretrained(files / encoder.replace("clip", "tokenizer"))
        for prompt in ("“a café” — 漢字 😀", *mixed_prompts(50, seed=9)):
            ids = expected(prompt, truncation=True, max_length=77)["input_ids"]
            assert tokenizer.tokenize(prompt) == ids
    assert mx.isfinite(loaded.encode(["“café” 😀"], 0.0).pooled).all()


def test_nothing_is_missing_and_only_listed_files_are_needed(loaded, hub_copy):
    entry = builtin.MODELS[loaded.name]
    assert entry.missing_files() == ()
    listed = {checkpoints.snapshot(hub_copy, repository) / file for repository, file in entry.files}
    unlisted = {path for path in hub_copy.glob("*/snapshots/**/*") if path.is_file()} - listed
    for path in unlisted:
        path.unlink()
    again = registry.load(loaded.name)
    assert again.fingerprint == loaded.fingerprint
    assert again.pipeline.t5_tokenizer.tokenize(PROMPT) == SentencePieces().tokenize(PROMPT)


@pytest.mark.parametrize(
    ("checkpoint", "repository", "file", "key", "parameter"),
    [
        (
            "sd3-medium",
            REPOSITORY["sd3-medium"],
            "sd3_medium.safetensors",
            "model.diffusion_model.joint_blocks.1.x_block.mlp.fc1.bias",
            "multimodal_transformer_blocks.1.image_transformer_block.mlp.fc1.bias",
        ),
        (
            "sd3-medium",
            checkpoints.TEXT_REPOSITORY,
            "clip_g/model.fp16.safetensors",
            "text_model.encoder.layers.0.layer_norm1.weight",
            "layers.0.layer_norm1.weight",
        ),
        (
            "sd3-medium",
            checkpoints.TEXT_REPOSITORY,
            "t5/t5xxl.safetensors",
            "encoder.block.0.layer.1.DenseReluDense.wo.weight",
            "encoder.layers.0.dense.wo.weight",
        ),
        (
            "flux-dev",
            REPOSITORY["flux-dev"],
            "flux1-dev.safetensors",
            "single_blocks.1.norm.key_norm.scale",
            "unified_transformer_blocks.1.transformer_block.qk_norm.k_norm.weight",
        ),
    ],
    indirect=["checkpoint"],
    ids=["sd3", "clip", "t5", "flux"],
)
def test_a_lacking_parameter_is_named(checkpoint, hub_copy, repository, file, key, parameter):
    checkpoints.drop_weight(checkpoints.snapshot(hub_copy, repository) / file, key)
    update = nn.Module.update
    with pytest.raises(ValueError, match=parameter.replace(".", r"\.")):
        registry.load(checkpoint)
    assert nn.Module.update is update


def test_loading_and_encoding_leave_mlx_as_it_was(checkpoint):
    before = nn.Module.update, mx.metal.device_info, mx.metal.set_memory_limit
    registry.load(checkpoint).encode([PROMPT], CFG_WEIGHT[checkpoint])
    assert (nn.Module.update, mx.metal.device_info, mx.metal.set_memory_limit) == before


@pytest.mark.usefixtures("empty_hub")
@pytest.mark.parametrize("name", [name for name in builtin.MODELS if name != "tiny"])
def test_missing_weights_are_listed_with_the_commands_that_fetch_them(name):
    entry = builtin.MODELS[name]
    assert entry.missing_files() == entry.files
    with pytest.raises(MissingFilesError) as caught:
        registry.load(name)
    first, *commands = str(caught.value).splitlines()
    assert f"calibzarr.download('{name}')" in first
    fetched = [command.removeprefix("hf download ").split() for command in commands]
    assert [(repository, file) for repository, *files in fetched for file in files] == [
        *entry.files
    ]


PROMPTS = [PROMPT, "a cat"]


def products(model, num_probes=2):
    """Of two images at one step: states, conditioning, schedule, probes, errors; and results."""
    guidance = builtin.MODELS[model.name].guidance and 4.0  # 4000 in bfloat16 as well
    conditioning = model.encode(PROMPTS, CFG_WEIGHT[model.name], guidance)
    schedule = model.schedule(NUM_STEPS)
    latents = model.initial_latents([1, 2], checkpoints.IMAGE_SIZE, schedule)
    shape = (len(PROMPTS), num_probes, *model.latent_shape(checkpoints.IMAGE_SIZE))
    probes = np.random.default_rng(0).choice([-1.0, 1.0], shape).astype(np.float32)
    ends = np.full((len(model.layers()), len(BITS)), 4.0)
    errors = QuantizationErrors(-ends, ends)
    given = latents, conditioning, schedule
    return (*given, probes, errors, model.signed_products(*given, 1, probes, errors))


def velocity(model, latents, conditioning, schedule):
    with model.denoiser(conditioning, schedule, steps=[1]) as denoise:
        return model.to_numpy(latents - denoise(latents, 1)) / schedule.sigma[1]


@pytest.mark.slow
def test_every_linear_layer_has_an_effect_and_the_model_is_as_before(loaded):
    before = parameters(loaded.pipeline.mmdit)
    latents, conditioning, schedule, *_, (found, power) = products(loaded)
    output = velocity(loaded, latents, conditioning, schedule).astype(np.float64)
    np.testing.assert_allclose(power, np.square(output).sum(axis=(1, 2, 3)), rtol=0.01)
    np.testing.assert_array_equal(velocity(loaded, latents, conditioning, schedule), output)
    fresh = registry.load(loaded.name)
    np.testing.assert_array_equal(velocity(fresh, latents, conditioning, schedule), output)
    after = parameters(loaded.pipeline.mmdit)
    assert after.keys() == before.keys()
    for name, (dtype, values) in before.items():
        assert after[name][0] == dtype
        np.testing.assert_array_equal(after[name][1], values, err_msg=name)
    for layer, of_layer in zip(loaded.layers(), found, strict=True):
        for quantizer, of_quantizer in zip(QUANTIZERS, of_layer, strict=True):
            fits = quantizer.quantizes == "activation" or quantizer.fits(layer.features)
            known = np.isfinite(of_quantizer)
            assert (known == (layer.role == "input" and fits)).all(), (layer.name, quantizer)
        if layer.role == "input" and layer.name not in UNUSED[loaded.name]:
            assert np.nanmax(np.abs(of_layer)) > 0, layer.name


UNUSED = {"sd3-medium": {"mm_block_1.text.attn.q_proj"}, "flux-dev": set()}
"""The last text stream of SD3 ends in its keys and values."""

LARGE = {
    "sd3-medium": [
        "t_embedder.mlp.fc1",
        "y_embedder.mlp.fc2",
        "context_embedder",
        "mm_block_0.text.adaLN_modulation",
        "mm_block_0.image.attn.o_proj",
        "mm_block_1.text.attn.v_proj",
        "final_layer.linear",
    ],
    "flux-dev": [
        "t_embedder.mlp.fc1",
        "guidance_in.mlp.fc1",
        "context_embedder",
        "mm_block_1.text.mlp.fc2",
        "unified_block_0.adaLN_modulation",
        "unified_block_0.attn.o_proj",
        "unified_block_1.attn.k_proj",
        "unified_block_1.mlp.fc1",
        "unified_block_1.mlp.fc2",
    ],
}


@pytest.mark.slow
def test_first_derivatives_agree_with_finite_differences(checkpoint):
    """In float32, along the error of a quantizer of the weight; 16 bits are near that."""
    narrow, model = registry.load(checkpoint), registry.load(checkpoint)
    model.pipeline.mmdit.set_dtype(mx.float32)
    model.pipeline.mmdit.config = replace(model.pipeline.mmdit.config, dtype=mx.float32)
    model.pipeline.activation_dtype = mx.float32
    *given, probes, errors, (found, _) = products(model)
    *_, (rounded, _) = products(narrow)
    quantizer = QUANTIZERS.index(Quantizer("weight", "tensor", 6))
    modules = dict(model.pipeline.mmdit.named_modules())
    names = [layer.name for layer in model.layers()]
    for name in LARGE[checkpoint]:
        index = names.index(name)
        module = modules[model.layers()[index].module]
        weight = module.weight
        error = errors.of_weight(index, weight)[quantizer - len(ACTIVATION_QUANTIZERS)]
        sums = []
        for sign in (1, -1):
            module.weight = weight + sign * 0.1 * error
            output = velocity(model, *given).astype(np.float64)
            sums.append((output[:, None] * probes).sum(axis=(2, 3, 4)))
        module.weight = weight
        expected = (sums[0] - sums[1]) / 0.2
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found[index, quantizer], expected, atol=0.01 * scale)
        np.testing.assert_allclose(rounded[index, quantizer], expected, atol=0.08 * scale)


@pytest.mark.parametrize(
    "options",
    [
        {"weight": 4, "activation": 5, "phases": (4, 5, 8)},
        {"weight": 4, "weights": "mlx-32", "activation": 5, "scheme": "token"},
    ],
)
def test_quantized_in_sixteen_bits(loaded, options):
    """As the plain model gives it on weights and inputs that are quantized in float32."""
    configuration = of_model(loaded, **options)
    layers, modules = loaded.layers(), dict(loaded.pipeline.mmdit.named_modules())
    by_name = {layer.name: layer for layer in configuration.layers}
    schedule = loaded.schedule(NUM_STEPS)
    conditioning = loaded.encode([PROMPT], CFG_WEIGHT[loaded.name])
    noise = loaded.initial_latents([SEED], checkpoints.IMAGE_SIZE, schedule)

    def output(model, step):
        with model.denoiser(conditioning, schedule, [step]) as denoise:
            return loaded.to_numpy(denoise(noise, step))

    before = [output(loaded, step) for step in range(NUM_STEPS)]
    quantized = loaded.quantized(configuration)
    actual = [output(quantized, step) for step in range(NUM_STEPS)]
    np.testing.assert_array_equal([output(loaded, step) for step in range(NUM_STEPS)], before)
    plain = loaded.pipeline.mmdit.parameters()
    for layer in layers:
        if layer.role == "input" and (quantizer := by_name[layer.name].weight) is not None:
            weight = modules[layer.module].weight
            values = np.asarray(weight.astype(mx.float32))
            if quantizer.group_size is None:
                result = mx.array(quantized_weight(values, quantizer))
            else:
                levels, *ends = mx.quantize(weight, group_size=32, bits=quantizer.bits)
                ends = [end.astype(mx.float32) for end in ends]
                result = mx.dequantize(levels, *ends, group_size=32, bits=quantizer.bits)
            modules[layer.module].weight = result.astype(weight.dtype)
    try:
        for step in range(NUM_STEPS):
            inputs = dict(
                zip(by_name, configuration.activations(float(schedule.sigma[step])), strict=True)
            )

            def transform(index, x, inputs=inputs):
                said = inputs[layers[index].name]
                if said is None:
                    return x
                values = np.asarray(x.astype(mx.float32))
                if said.scale is None:
                    values = quantized_by_token(values, said.bits)
                else:
                    values = quantized_by_tensor(values, said.scale, said.zero_point, said.bits)
                return mx.array(values).astype(x.dtype)

            with loaded.transforming_inputs(transform):
                np.testing.assert_array_equal(output(loaded, step), actual[step])
            assert (actual[step] != before[step]).any()
    finally:
        loaded.pipeline.mmdit.update(plain)

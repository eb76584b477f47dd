import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from calibzarr.models import tiny as tiny_module
from calibzarr.models.diffusionkit import DiffusionKitModel, kit
from calibzarr.models.registry import find
from calibzarr.sampling.sampler import euler_states


def parameters(model):
    return {
        name: np.array(value) for name, value in tree_flatten(model.pipeline.mmdit.parameters())
    }


def test_everything_is_of_diffusionkits_own_classes(tiny):
    pipeline = tiny.pipeline
    assert isinstance(pipeline, kit.DiffusionPipeline)
    assert type(pipeline.mmdit) is kit.mmdit.MMDiT
    assert type(pipeline.decoder) is kit.vae.VAEDecoder
    assert type(pipeline.clip_l) is type(pipeline.clip_g) is kit.clip.CLIPTextModel
    assert isinstance(pipeline.tokenizer_g, kit.tokenizer.Tokenizer)


def test_any_text_has_tokens_and_the_same_text_the_same(tiny):
    tokenizer = tiny.pipeline.tokenizer_l
    known = tokenizer.tokenize("a red circle")
    assert known[1:-1] == [tokenizer.vocab[word] for word in ("a", "red", "circle")]
    for text in ("", "Käse über ☃ 中文", "1234 !?", "x" * 10_000):
        tokens = tokenizer.tokenize(text)
        assert tokens == tokenizer.tokenize(text)
        assert max(tokens) == tokens[-1] == tokenizer.eos_token  # what CLIP pools at
        assert len(tokens) <= tiny_module.TEXT_TOKENS
    assert tokenizer.tokenize("sunset") != tokenizer.tokenize("harbour")


def test_the_first_unknown_words_are_told_of_and_no_others(tiny, monkeypatch, caplog):
    monkeypatch.setattr(tiny_module.WordTokenizer, "_told_of_unknown", False)
    tiny.encode(["a red star", ""], 3.0)
    assert not caplog.records
    tiny.encode(["A red sunset over a harbour", "a lighthouse"], 3.0)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "does not know: sunset, over, harbour." in record.getMessage()


def test_sampling_leaves_the_parameter_tree_as_it_was(tiny):
    before = parameters(tiny)
    schedule = tiny.schedule(2)
    conditioning = tiny.encode(["a red star"], 3.0)
    first = [tiny.to_numpy(s) for s in euler_states(tiny, conditioning, schedule, [1], 64)]
    after = parameters(tiny)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    second = [tiny.to_numpy(s) for s in euler_states(tiny, conditioning, schedule, [1], 64)]
    np.testing.assert_array_equal(first, second)


def test_weights_come_back_when_caching_itself_fails(tiny, monkeypatch):
    before = parameters(tiny)
    mmdit_class = type(tiny.pipeline.mmdit)
    cache = mmdit_class.cache_modulation_params

    def fail(self, *args):
        cache(self, *args)
        raise MemoryError

    monkeypatch.setattr(mmdit_class, "cache_modulation_params", fail)
    schedule = tiny.schedule(2)
    with pytest.raises(MemoryError), tiny.denoiser(tiny.encode(["x"], 3.0), schedule):
        pass
    after = parameters(tiny)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_noise_is_numpys_for_the_seed_and_leaves_the_global_generator_alone(tiny):
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    latents = tiny.to_numpy(tiny.initial_latents([7, 8], 64, tiny.schedule(3)))
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    for seed, actual in zip((7, 8), latents, strict=True):
        np.random.seed(seed)
        np.testing.assert_array_equal(actual, np.random.randn(16, 8, 8).astype(np.float32))


def test_latents_keep_their_values_both_ways(tiny):
    latents = np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(tiny.to_numpy(tiny.from_numpy(latents)), latents)


@pytest.mark.parametrize("image_size", [32, 64, 128])
def test_shapes_agree_with_the_registry(tiny, image_size):
    entry = find("tiny")
    shape = tiny.latent_shape(image_size)
    assert shape == entry.latent_shape(image_size)
    assert tiny.activation_dtype == "float32"
    assert tiny.decode(np.zeros(shape, np.float32)).shape == (image_size, image_size, 3)


def test_layers_are_the_linear_layers_and_the_blocks(tiny):
    layers = tiny.layers()
    modules = dict(tiny.pipeline.mmdit.named_modules())
    linear = {path for path, module in modules.items() if isinstance(module, nn.Linear)}
    assert {layer.module for layer in layers if layer.role == "input"} == linear
    assert len({layer.name for layer in layers}) == len(layers)
    by_name = {layer.name: layer for layer in layers}
    q_proj = by_name["mm_block_0.image.attn.q_proj"]
    assert (q_proj.stream, q_proj.kind, q_proj.features) == ("image", "attn.q_proj", 128)
    assert by_name["mm_block_2.text"].role == by_name["mm_block_3"].role == "output"
    assert "mm_block_3.text" not in by_name  # nothing reads the last text block's output
    assert by_name["context_embedder"].features == 4096


def test_fingerprint_tells_one_changed_weight():
    pipeline = tiny_module.TinyPipeline()
    before = DiffusionKitModel("tiny", pipeline).fingerprint
    assert DiffusionKitModel("tiny", tiny_module.TinyPipeline()).fingerprint == before
    bias = pipeline.mmdit.final_layer.linear.bias
    pipeline.mmdit.final_layer.linear.bias = mx.where(mx.arange(bias.size) == 3, bias + 1e-6, bias)
    assert DiffusionKitModel("tiny", pipeline).fingerprint != before


def test_saved_weights_load_again(tmp_path, tiny):
    path = tmp_path / "weights.safetensors"
    tiny_module.save_weights(tiny.pipeline, path)
    assert path.read_bytes() == tiny_module.WEIGHTS.read_bytes()

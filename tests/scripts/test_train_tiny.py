import json
import math
import subprocess
import sys
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from calibzarr.models.diffusionkit import DiffusionKitModel
from calibzarr.models.modulation import cached_modulation
from calibzarr.models.tiny import TEXT_TOKENS, TinyPipeline
from calibzarr.prompts.shapes import SHAPES, Scene, scenes
from tests.support.files import ROOT

SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))

from training import activations, autoencoder, check, measure, rates, transformer  # noqa: E402
from training.pictures import RGB, Placement, coverage, draw_all  # noqa: E402

AUTOENCODER = replace(autoencoder.Settings(), steps=4, batch_size=2, warmup=1, checkpoint_every=2)
TRANSFORMER = replace(transformer.Settings(), steps=4, batch_size=4, warmup=1, checkpoint_every=2)


def polygon_area(points):
    x, y = np.asarray(points).T
    return 0.5 * abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))


def star():
    angle = np.arange(10) * np.pi / 5
    radius = np.where(np.arange(10) % 2, 0.45, 1.0)
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)


AREAS = {
    "circle": math.pi * 0.95**2,
    "square": (2 * 0.85) ** 2,
    "triangle": polygon_area([(0, -1), (0.99, 0.8), (-0.99, 0.8)]),
    "star": polygon_area(star()),
    "diamond": 2 * 0.75,
    "cross": 2 * (1.9 * 0.6) - 0.6**2,
    "ring": math.pi * (1 - 0.55**2),
}


@pytest.mark.parametrize(("shape", "area"), AREAS.items())
def test_shapes_cover_the_area_of_their_outline(shape, area):
    covered = coverage(shape, Placement(31.3, 33.1, 20.0))
    assert covered.sum() == pytest.approx(area * 20**2, rel=0.01)
    assert ((covered > 0) & (covered < 1)).any()  # anti-aliased
    columns = np.nonzero(covered)[1]
    assert abs(columns.mean() + 0.5 - 31.3) < 0.6  # all are symmetric about a vertical line


@pytest.fixture(scope="module")
def drawn():
    expected = measure.held_out_scenes(60, seed=5)
    return expected, measure.true_pictures(expected, seed=5)


@pytest.mark.slow
def test_the_check_reads_every_drawn_picture_rightly(drawn):
    expected, pictures = drawn
    assert {scene.shape for scene in expected} == set(SHAPES)
    assert check.accuracy(expected, map(check.look, pictures)) == check.Accuracy(1, 1, 1, 1, 1)


@pytest.mark.slow
def test_the_check_sees_what_is_wrong(drawn):
    expected, pictures = drawn
    wrong = measure.shown(expected, np.roll(pictures, 1, axis=0))
    assert max(wrong.colour, wrong.background, wrong.shape) < 0.4
    noise = np.random.default_rng(0).integers(0, 256, pictures[:20].shape, np.uint8)
    assert max(check.look(picture).overlap for picture in noise) < 0.6


def test_the_check_says_something_of_a_picture_of_one_colour():
    found = check.look(np.full((64, 64, 3), RGB["green"], np.uint8)).scene
    assert found.colour == found.background == "green"


@pytest.mark.parametrize(
    ("fast", "own", "tolerance"),
    [(activations.gelu, nn.gelu, 2e-6), (activations.silu, nn.silu, 2e-5)],
)
def test_fast_activations_are_mlxs_own(fast, own, tolerance):
    x = mx.array(np.linspace(-30, 30, 5001, dtype=np.float32))
    np.testing.assert_allclose(fast(x), own(x), atol=tolerance)
    slopes = [mx.grad(lambda x, f=f: f(x).sum())(x) for f in (fast, own)]
    np.testing.assert_allclose(*slopes, atol=tolerance)


def test_activations_are_mlxs_own_again_after_training():
    originals = nn.silu, nn.gelu, nn.GELU.__call__
    with activations.fast_activations():
        assert nn.silu is activations.silu
    assert (nn.silu, nn.gelu, nn.GELU.__call__) == originals


def test_learning_rates_rise_and_fall():
    schedule = rates.warm_then_cosine(1.0, 10, 110)
    assert float(schedule(mx.array(0))) < 1e-4
    assert float(schedule(mx.array(5))) == pytest.approx(0.5, abs=0.01)
    for step in (10, 40, 60, 109):
        expected = 0.01 + 0.99 * (1 + math.cos(math.pi * (step - 10) / 100)) / 2
        assert float(schedule(mx.array(step))) == pytest.approx(expected, rel=1e-3)


@pytest.fixture
def pipeline():
    pipeline = TinyPipeline(weights=None)
    transformer.initialise_text(pipeline, 0)
    transformer.initialise(pipeline, 0)
    autoencoder.Autoencoder(pipeline.encoder, pipeline.decoder).initialise(0)
    return pipeline


def test_training_passes_are_diffusionkits_own(pipeline):
    model = autoencoder.Autoencoder(pipeline.encoder, pipeline.decoder)
    pictures = mx.array(np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32))
    mean, log_variance = model.encode(pictures)
    encoded = np.asarray(pipeline.encoder(pictures))
    np.testing.assert_allclose(mean, encoded[..., :16], atol=2e-5)
    np.testing.assert_allclose(log_variance, np.clip(encoded[..., 16:], -12, 4), atol=2e-5)
    np.testing.assert_allclose(model.decode(mean), pipeline.decoder(mean), atol=2e-5)


def test_captions_are_encoded_as_diffusionkit_does(pipeline):
    captions = ["a small red star at the left on a blue background", "unheard words", ""]
    tokens, pooled = transformer.encode_captions(pipeline, captions, batch_size=2)
    for caption, own_tokens, own_pooled in zip(captions, tokens, pooled, strict=True):
        expected_tokens, expected_pooled = pipeline.encode_text(caption, 3.0)
        padded = np.zeros((2 * TEXT_TOKENS, 4096), np.float32)
        padded[:TEXT_TOKENS, : transformer.TEXT_FEATURES] = own_tokens
        np.testing.assert_allclose(padded, expected_tokens[0], atol=1e-5)
        np.testing.assert_allclose(own_pooled, expected_pooled[0], atol=1e-5)


def test_one_prediction_with_many_noise_levels_is_diffusionkits_one_by_one(pipeline):
    generator = np.random.default_rng(0)
    for name, module in pipeline.mmdit.named_modules():  # else all of it would be zero
        if isinstance(module, nn.Linear) and ("adaLN" in name or name == "final_layer.linear"):
            module.weight = mx.array(0.1 * generator.standard_normal(module.weight.shape))
    captions = ["a red star on a blue background", "", "a large ring"]
    tokens, pooled = transformer.encode_captions(pipeline, captions)
    states = mx.array(generator.standard_normal((3, 8, 8, 16), np.float32))
    sigma = mx.array([0.05, 0.5, 1.0])
    batch = transformer.predict(pipeline.mmdit, states, sigma, mx.array(tokens), mx.array(pooled))
    for index, caption in enumerate(captions):
        tokens, pooled = (each[:1] for each in pipeline.encode_text(caption, 3.0))
        timestep = 1000 * sigma[index : index + 1]
        with cached_modulation(pipeline.mmdit, pooled, timestep):
            state = states[index : index + 1]
            expected = pipeline.mmdit(state, tokens[:, :, None, :], timestep)
        assert np.abs(expected).max() > 0.5
        np.testing.assert_allclose(batch[index : index + 1], expected, atol=1e-4)


def test_folding_the_scale_changes_latents_and_not_pictures(pipeline):
    pictures = draw_all([Scene("star", "red", "blue"), Scene("ring", "white", "black")],
                        np.random.default_rng(0))  # fmt: skip
    before = autoencoder.encode(pipeline, pictures)
    decoded = pipeline.decoder(before)
    deviation = float(mx.sqrt(mx.var(before)))
    autoencoder.fold_scale(pipeline, deviation)
    after = autoencoder.encode(pipeline, pictures)
    sampled = pipeline.latent_format.process_in(after)
    assert float(mx.var(sampled)) == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(pipeline.decoder(after), decoded, atol=1e-4)


def examples(pipeline):
    captions = [scene.caption for scene in list(scenes())[:5]] + [""]
    latents = np.random.default_rng(0).standard_normal((5, 8, 8, 16)).astype(np.float16)
    return transformer.Examples(
        latents, np.arange(5), *transformer.encode_captions(pipeline, captions)
    )


def train_autoencoder(pipeline, path, say=print, settings=AUTOENCODER):
    autoencoder.train(pipeline, path, settings, say)
    return {"encoder": pipeline.encoder, "decoder": pipeline.decoder}


def train_transformer(pipeline, path, say=print, settings=TRANSFORMER):
    transformer.train(pipeline, path, examples(pipeline), settings, say)
    return {"mmdit": pipeline.mmdit}


class Killed(BaseException):
    pass


def killed_at_a_checkpoint(line):
    raise Killed(line)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [train_autoencoder, train_transformer])
def test_going_on_from_a_checkpoint_gives_the_same_weights(tmp_path, stage):
    def train(name, say=print):
        pipeline = TinyPipeline(weights=None)
        transformer.initialise_text(pipeline, 0)
        modules = stage(pipeline, tmp_path / name, say)
        return {
            f"{part}.{key}": np.array(value)
            for part, module in modules.items()
            for key, value in tree_flatten(module.parameters())
        }

    whole = train("whole")
    with pytest.raises(Killed, match="2 of 4 steps"):
        train("parts", killed_at_a_checkpoint)
    lines = []
    resumed = train("parts", lines.append)
    assert len(lines) == 1
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


def test_training_the_decoder_further_leaves_the_encoder_and_so_the_latents(tmp_path, pipeline):
    before = [dict(tree_flatten(m.parameters())) for m in (pipeline.encoder, pipeline.decoder)]
    settings = replace(AUTOENCODER, decoder_only=True, small_part=0.5)
    autoencoder.train(pipeline, tmp_path / "c", settings, print)
    after = [dict(tree_flatten(m.parameters())) for m in (pipeline.encoder, pipeline.decoder)]
    assert all(np.array_equal(before[0][name], after[0][name]) for name in before[0])
    assert not any(
        np.array_equal(before[1][name], after[1][name]) for name in before[1] if "conv" in name
    )
    assert pipeline.encoder.trainable_parameters()


@pytest.mark.parametrize(
    ("stage", "settings"), [(train_autoencoder, AUTOENCODER), (train_transformer, TRANSFORMER)]
)
def test_other_settings_do_not_go_on(tmp_path, pipeline, stage, settings):
    with pytest.raises(Killed):
        stage(pipeline, tmp_path / "c", killed_at_a_checkpoint)
    with pytest.raises(ValueError, match=r"\"steps\": 4.*\"steps\": 5.*another directory"):
        stage(pipeline, tmp_path / "c", settings=replace(settings, steps=5))


@pytest.mark.slow
def test_the_transformer_learns_one_example(tmp_path, pipeline):
    settings = replace(TRANSFORMER, steps=30, warmup=5, caption_dropout=0.0)
    lines = []
    one = replace(examples(pipeline), latents=np.ones((1, 8, 8, 16), np.float16))
    settings = replace(settings, checkpoint_every=10, learning_rate=3e-3)
    transformer.train(pipeline, tmp_path / "c", one, settings, lines.append)
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in lines]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_one_command_makes_weights_that_load_and_are_measured(tmp_path):
    weights = tmp_path / "weights.safetensors"
    few = ["--autoencoder-steps", "2", "--transformer-steps", "2", "--pictures", "8"]
    train = [sys.executable, SCRIPTS / "train_tiny.py", "--directory", tmp_path / "d", *few]
    subprocess.run([*train, "--weights", weights], check=True, capture_output=True, text=True)
    assert weights.stat().st_size < 10e6
    model = DiffusionKitModel("tiny", TinyPipeline(weights))
    assert len(model.layers()) > 50
    command = [sys.executable, SCRIPTS / "check_tiny.py", "--weights", weights, "--json"]
    checked = subprocess.run(
        [*command, "--count", "2", "--num-steps", "2"], capture_output=True, text=True
    )
    report = json.loads(checked.stdout)
    assert report["drawn"]["shape"] == 1
    assert report["met"] is False
    assert checked.returncode == 1

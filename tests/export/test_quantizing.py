import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
import xarray as xr

import calibzarr
from calibzarr.errors import OptionError, StoreError, TakenError
from calibzarr.export import quantizing
from calibzarr.export.measured import END, START
from calibzarr.models.diffusionkit import DiffusionKitModel
from calibzarr.quantization.gptq import gptq
from calibzarr.quantization.packing import packed
from calibzarr.sampling import runs
from tests.support.stores import snapshot

pytestmark = pytest.mark.usefixtures("loaded_once")

BITS = 4.5


@pytest.fixture(scope="module")
def store(to_quantize):
    return to_quantize


@pytest.fixture(scope="module")
def made(store, tiny, tmp_path_factory):
    """A checkpoint from the four images that are not held out."""
    out = tmp_path_factory.mktemp("made") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("calibzarr.models.registry.load", lambda name: tiny)
        return calibzarr.quantize(store, out, bits_per_weight=BITS)


def test_what_was_asked_for_is_reached_and_never_exceeded(made, store):
    assert 0.995 * BITS <= made.allocation.bits_per_weight <= BITS
    weights = mx.load(str(made.path / "model.safetensors"))
    quantized = [path.removesuffix("scales") for path in weights if path.endswith("scales")]
    parts = ("weight", "scales", "biases")
    bits = 8 * sum(weights[path + part].nbytes for path in quantized for part in parts)
    sizes = dict(
        zip(*(xr.open_zarr(store)[name].values for name in ("module", "layer")), strict=True)
    )
    counts = xr.open_zarr(store).weight_histogram.sum("bin").load()
    number = sum(int(counts.sel(layer=sizes[path.rstrip(".")])) for path in quantized)
    assert bits / number == pytest.approx(made.allocation.bits_per_weight)


@pytest.mark.slow
def test_levels_are_those_of_gptq_with_hessians_of_replayed_inputs(made, store, tiny):
    weights = mx.load(str(made.path / "model.safetensors"))
    layers = {layer.name: layer for layer in tiny.layers() if layer.role == "input"}
    quantizers = {layer.name: quantizer for layer, quantizer in made.allocation.choice.quantized()}
    config = json.loads((made.path / "config.json").read_text())
    sigma = xr.open_zarr(store).sigma.values
    chosen = [
        "mm_block_1.image.attn.v_proj",
        "mm_block_3.text.adaLN_modulation",
        "context_embedder",
    ]
    hessians = dict.fromkeys(chosen, 0.0)
    for name in chosen:
        for inputs in calibzarr.layer_inputs(store, name, images=config["images"], steps="key"):
            x = inputs.values.reshape(-1, inputs.values.shape[-1])
            hessians[name] += x.T @ x * (sigma[inputs.step] - sigma[inputs.step + 1])
    assert len(config["images"]) == 4
    for name in chosen:
        quantizer = quantizers[name]
        grid = tiny.levels_of_weight(layers[name], quantizer.group_size, quantizer.bits)
        level = gptq(tiny.weight(layers[name]), *grid, quantizer.bits, hessians[name])
        expected = packed(level, quantizer.bits)
        actual = np.asarray(weights[layers[name].module + ".weight"])
        assert (expected == actual).mean() > 0.99  # sums in another order
        assert (packed(grid[0].astype(np.uint8), quantizer.bits) != actual).any()


def test_the_measured_error_is_that_of_the_loaded_checkpoint(made, store, tiny):
    dataset = xr.open_zarr(store).load()
    config = json.loads((made.path / "config.json").read_text())
    held_out = sorted(set(range(12)) - set(config["images"]))
    assert len(held_out) == 8
    quantized = DiffusionKitModel("tiny", calibzarr.load_pipeline(made.path))
    schedule = tiny.schedule(3)
    assert made.output_sqnr_db.keys() == {0, 1, 2}
    for step, found in made.output_sqnr_db.items():
        power = error = 0.0
        for image in held_out:
            outputs = []
            for model in (tiny, quantized):
                conditioning = model.encode([str(dataset.prompt.values[image])], 3.0)
                states = model.from_numpy(dataset.latents.values[[image], step])
                with model.denoiser(conditioning, schedule, [step]) as denoise:
                    outputs.append(model.to_numpy(states - denoise(states, step)).astype(float))
            power += np.square(outputs[0]).sum()
            error += np.square(outputs[0] - outputs[1]).sum()
        assert found == pytest.approx(10 * np.log10(power / error), abs=0.05)


def test_the_card_says_what_was_measured_and_how_to_load_it(made):
    card = (made.path / "README.md").read_text()
    mean = np.mean(list(made.output_sqnr_db.values()))
    assert f"measured output SQNR {mean:.1f} dB" in card
    assert f"{made.allocation.bits_per_weight:.3f} bits per weight" in card
    assert "4 bits in groups of 64 everywhere" in card
    assert 'calibzarr.load_pipeline("out")' in card
    assert f"\n\n{START}" in card
    assert f"writes here what it measured.\n{END}\n## Loading\n" in card
    assert made.memory["mmdit"] == (made.path / "model.safetensors").stat().st_size


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bytes(made, store, tmp_path, monkeypatch):
    calls, original = [], quantizing.gptq

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return original(*arguments)

    options = {"bits_per_weight": BITS, "memory": 3e6}
    monkeypatch.setattr(quantizing, "gptq", failing)
    assert calibzarr.quantize(store, tmp_path / "out", **options).interrupted
    assert not (tmp_path / "out").exists()
    rounded = sorted((tmp_path / "out.rounded").glob("*.npz"))[0]
    content = bytearray(rounded.read_bytes())
    content[len(content) // 2] ^= 1
    rounded.write_bytes(content)
    with pytest.raises(StoreError, match=f"{rounded} is damaged: its levels cannot be read"):
        calibzarr.quantize(store, tmp_path / "out", **options)
    rounded.unlink()
    result = calibzarr.quantize(store, tmp_path / "out", **options)
    assert not result.interrupted
    assert len(calls) == 2 + len(result.allocation.choice.layers)  # two of them twice
    expected, actual = (snapshot(path)["model.safetensors"] for path in (made.path, result.path))
    assert actual == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("part", [0.1, 0.25])
def test_a_size_is_reached_and_never_exceeded(store, tmp_path, part):
    size = 794_760 + part * (2_719_544 - 794_760)
    result = calibzarr.quantize(store, tmp_path / "out", size=size, rounding="nearest")
    actual = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert 0.995 * size <= actual <= size
    assert actual == result.allocation.file_size


def test_kept_layers_stay_and_are_outside_of_the_mean(store, tiny, tmp_path):
    keep = ["context_embedder", "*.adaLN_modulation"]
    result = calibzarr.quantize(
        store, tmp_path / "out", bits_per_weight=4, keep=keep, rounding="nearest", groups=[128]
    )
    kept = [name for name in result.allocation.kept]
    assert kept == [
        layer.name
        for layer in tiny.layers()
        if layer.role == "input" and layer.name.endswith(("context_embedder", "adaLN_modulation"))
    ]
    assert 0.995 * 4 <= result.allocation.bits_per_weight <= 4
    assert {q.group_size for _, q in result.allocation.choice.quantized()} == {128}
    weights = mx.load(str(tmp_path / "out" / "model.safetensors"))
    expected = tiny.pipeline.mmdit.context_embedder.weight.astype(mx.float16)
    assert mx.array_equal(weights["context_embedder.weight"], expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "bits_per_weight or size"),
        ({"bits_per_weight": 4, "size": 1e6}, "bits_per_weight or size"),
        ({"bits_per_weight": 2.2}, "from 2.25 to 9, got 2.2"),
        ({"bits_per_weight": 9.1}, "from 2.25 to 9, got 9.1"),
        ({"bits_per_weight": float("nan")}, "above 0, got nan"),
        ({"size": 1e5}, "from 794760 to 2765120 bytes, got 100000"),
        ({"bits_per_weight": 4, "groups": [16]}, "of 32, 64, 128, got 16"),
        ({"bits_per_weight": 4, "keep": ["mm_blok*"]}, "no linear layer 'mm_blok"),
        ({"bits_per_weight": 4, "keep": ["*"]}, "leaves no layer"),
        ({"bits_per_weight": 4, "rounding": "up"}, "gptq or nearest, got 'up'"),
        ({"bits_per_weight": 4, "images": 0}, "1 or more, got 0"),
        ({"bits_per_weight": 4, "memory": 0}, "above 0, got 0"),
        ({"bits_per_weight": 4, "t5": 7}, "t5 must be one of 2, 3, 4, 5, 6, 8, got 7"),
        ({"bits_per_weight": 4, "t5": 8}, "for models with T5, which tiny has not; got 8"),
        ({"bits_per_weight": 4, "tune": 0}, "minutes above 0, got 0"),
        ({"bits_per_weight": 4, "tune": float("inf")}, "minutes above 0, got inf"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(store, tmp_path, options, expected):
    with pytest.raises(OptionError, match=expected):
        calibzarr.quantize(store, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_other_stores_and_taken_places_are_refused(store, replayed, made, tmp_path, monkeypatch):
    with pytest.raises(StoreError, match="no sensitivities"):
        calibzarr.quantize(replayed.path, tmp_path / "out", bits_per_weight=4)
    with pytest.raises(TakenError, match="exists already"):
        calibzarr.quantize(store, made.path, bits_per_weight=4)
    monkeypatch.setattr("calibzarr.models.registry.load", lambda name: _Changed())
    with pytest.raises(StoreError, match="put the old weights back"):
        calibzarr.quantize(store, tmp_path / "out", bits_per_weight=4)


def test_a_run_says_which_of_its_images_the_checkpoint_was_fitted_to(
    store, made, replayed, tmp_path
):
    config = json.loads((made.path / "config.json").read_text())
    assert runs.of(store, made.path).quantized["fitted_images"] == config["images"]
    shutil.copytree(store, tmp_path / "grown.zarr")
    calibzarr.build(tmp_path / "grown.zarr", resume=True, num_images=13, images=(0, 1))
    grown = runs.of(tmp_path / "grown.zarr", made.path)
    assert grown.quantized["fitted_images"] == config["images"]
    assert "fitted_images" not in runs.of(replayed.path, made.path).quantized  # fewer images


def test_a_run_is_refused(store, made, tmp_path):
    calibzarr.build(tmp_path / "run.zarr", reference=store, model=made.path, images=(0, 1))
    with pytest.raises(StoreError, match="was made by a quantized model"):
        calibzarr.quantize(tmp_path / "run.zarr", tmp_path / "out", bits_per_weight=4)


class _Changed(DiffusionKitModel):
    """The embedded model with random weights."""

    def __init__(self):
        from calibzarr.models.tiny import TinyPipeline

        super().__init__("tiny", TinyPipeline(weights=None))

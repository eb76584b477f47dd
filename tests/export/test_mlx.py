import json
import shutil

import mlx.nn as nn
import numpy as np
import pytest
import xarray as xr
from mlx.utils import tree_flatten

import calibzarr
from calibzarr.advice import recommendation
from calibzarr.export import config
from calibzarr.models import registry


@pytest.fixture(scope="module")
def paths(replayed, tmp_path_factory):
    """What a file holds that the embedded model was exported to."""
    file = tmp_path_factory.mktemp("mlx") / "weights.json"
    result = config.export_config(replayed.path, file, file_format="mlx", weight_bits=5)
    content = json.loads(file.read_text())
    assert (content.pop("group_size"), content.pop("bits")) == (64, 4)  # mlx-lm's default
    assert result.num_layers == len(content)
    return content


def quantized(paths):
    """The embedded model, loaded anew, with quantized layers."""
    model = registry.load("tiny")
    nn.quantize(model.pipeline.mmdit, class_predicate=lambda path, module: paths.get(path, False))
    return model


def denoised(model, path, step=1):
    """The model's estimate from a stored state."""
    dataset = calibzarr.open_store(path)
    schedule = model.schedule(3)
    conditioning = model.encode([str(dataset.prompt.values[0])], 3.0)
    state = model.from_numpy(dataset.latents.values[[0], step])
    with model.denoiser(conditioning, schedule, [step]) as denoise:
        return model.to_numpy(denoise(state, step))


def test_every_named_layer_is_quantized_as_it_says_and_no_other(paths, replayed):
    model = quantized(paths)
    modules = dict(model.pipeline.mmdit.named_modules())
    for path, wanted in paths.items():
        assert isinstance(modules[path], nn.QuantizedLinear)
        assert (modules[path].bits, modules[path].group_size) == tuple(
            wanted[name] for name in ("bits", "group_size")
        )
    others = [path for path, module in modules.items() if isinstance(module, nn.QuantizedLinear)]
    assert set(others) == set(paths)
    dataset = xr.open_zarr(replayed.path)
    linear = dataset.module.values[dataset.role.values == "input"]
    assert set(paths) <= set(linear.tolist())


def test_bits_are_those_of_the_other_format(paths, replayed):
    recommended = recommendation.recommend(replayed.path, weight_bits=5, weight_quantizer="mlx")
    linear = recommended.isel(layer=recommended.role.values == "input")
    bits = dict(zip(linear.module.values.tolist(), linear.weight_bits.values.tolist(), strict=True))
    assert {path: own["bits"] for path, own in paths.items()} == bits


def test_the_quantized_transformer_denoises_and_more_bits_are_nearer(paths, replayed, tiny):
    reference = denoised(tiny, replayed.path)
    power = np.mean(reference.astype(np.float64) ** 2)
    errors = {}
    for bits in (2, 4, 6, 8):
        same = {path: {**own, "bits": bits} for path, own in paths.items()}
        output = denoised(quantized(same), replayed.path)
        assert np.isfinite(output).all()
        errors[bits] = np.mean((output - reference) ** 2) / power
    assert errors[2] > 4 * errors[4] > 16 * errors[6] > 64 * errors[8] > 0
    assert errors[8] < 2e-4

    model = quantized(paths)
    output = denoised(model, replayed.path)
    error = np.mean((output - reference) ** 2) / power
    assert errors[8] <= 1.01 * error
    assert error <= 1.01 * errors[min(own["bits"] for own in paths.values())]
    assert error < 0.05
    before = dict(tree_flatten(model.pipeline.mmdit.parameters()))
    np.testing.assert_array_equal(denoised(model, replayed.path), output)
    after = dict(tree_flatten(model.pipeline.mmdit.parameters()))
    assert all(after[name] is value for name, value in before.items())  # also adaLN's, put back


def test_layers_that_stay_unquantized_are_false_and_told(replayed, tmp_path):
    file, keep = tmp_path / "a.json", ["mm_block_0.image.*"]
    result = config.export_config(replayed.path, file, file_format="mlx", keep=keep)
    content = json.loads(file.read_text())
    recommended = recommendation.recommend(replayed.path, weight_quantizer="mlx", keep=keep)
    linear = recommended.isel(layer=recommended.role.values == "input")
    whole = linear.module.values[linear.weight_bits.values == 16]
    assert len(whole) > 0
    assert {path for path, entry in content.items() if entry is False} == set(whole.tolist())
    assert result.num_layers == len(linear.layer) - len(whole)
    assert f"{len(whole)} unquantized" in result.bits


def test_quantizing_leaves_the_store_alone(replayed, tmp_path):
    path = tmp_path / "a.zarr"
    shutil.copytree(replayed.path, path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    config.export_config(path, tmp_path / "a.json", file_format="mlx")
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before

import errno
import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from calibzarr.errors import DiskFullError, TakenError
from calibzarr.export import checkpoint
from calibzarr.models.diffusionkit import kit
from calibzarr.storage import tensors
from tests.support.quantized_checkpoints import choice_of, write


@pytest.fixture(scope="module")
def written(tmp_path_factory, tiny):
    path = tmp_path_factory.mktemp("checkpoint") / "out"
    choice = choice_of(tiny, kept=("y_embedder.mlp.fc1", "mm_block_2.image.attn.o_proj"))
    return write(path, tiny, choice), choice


def quantized_by_mlx(tiny, choice):
    """The same from ``mx.quantize`` on the weights in float16."""
    expected = {
        path: value.astype(mx.float16)
        for path, value in tree_flatten(tiny.pipeline.mmdit.parameters())
    }
    for layer, quantizer in choice.quantized():
        weight = expected[f"{layer.module}.weight"]
        parts = mx.quantize(weight, group_size=quantizer.group_size, bits=quantizer.bits)
        for name, part in zip(("weight", "scales", "biases"), parts, strict=True):
            expected[f"{layer.module}.{name}"] = part
    return expected


def assert_equal(module, expected):
    found = dict(tree_flatten(module.parameters()))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert found[path].dtype == value.dtype
        assert mx.array_equal(found[path], value), path


def test_mlx_loads_it_with_a_class_predicate(written, tiny):
    path, choice = written
    quantization = json.loads((path / "config.json").read_text())["quantization"]
    mmdit = kit.mmdit.MMDiT(tiny.pipeline.mmdit.config)
    nn.quantize(mmdit, class_predicate=lambda path, _: quantization.get(path, False))
    mmdit.load_weights(str(path / "model.safetensors"))
    assert_equal(mmdit, quantized_by_mlx(tiny, choice))
    settings = {(q.group_size, q.bits) for _, q in choice.quantized()}
    assert len(settings) == 18


def test_mlx_lm_loads_it_unchanged(written, tiny):
    from mlx_lm.utils import load_model

    class Arguments:
        @classmethod
        def from_dict(cls, config):
            assert config["model"] == "tiny"
            return cls()

    def build(_):
        return kit.mmdit.MMDiT(tiny.pipeline.mmdit.config)

    path, choice = written
    model, _ = load_model(path, get_model_classes=lambda config: (build, Arguments))
    assert_equal(model, quantized_by_mlx(tiny, choice))


def test_every_linear_layer_is_listed_and_the_size_is_told_before(written, tiny):
    path, choice = written
    quantization = json.loads((path / "config.json").read_text())["quantization"]
    linear = {layer.module for layer in tiny.layers() if layer.role == "input"}
    assert quantization.keys() == linear | {"group_size", "bits"}
    assert [path for path, entry in quantization.items() if entry is False] == [
        layer.module for layer in choice.layers if "y_embedder.mlp.fc1" in layer.name
    ] + [layer.module for layer in choice.layers if layer.name == "mm_block_2.image.attn.o_proj"]
    expected = checkpoint.file_size(checkpoint.shapes(tiny.parameters(), choice))
    assert (path / "model.safetensors").stat().st_size == expected


def test_what_exists_is_not_overwritten(written, tiny):
    path, choice = written
    before = (path / "model.safetensors").read_bytes()
    with pytest.raises(TakenError, match="exists already"):
        write(path, tiny, choice)
    assert (path / "model.safetensors").read_bytes() == before


def test_a_full_disk_leaves_nothing(tmp_path, tiny, monkeypatch):
    def fail(file, *_):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensors, "write", fail)
    with pytest.raises(DiskFullError, match="the disk is full"):
        write(tmp_path / "out", tiny, choice_of(tiny))
    assert list(tmp_path.iterdir()) == []


def test_bfloat16_parts_keep_their_bits(tiny):
    values = mx.array([1.5, -3.25, 1e-7, 65280.0]).astype(mx.bfloat16)
    found = checkpoint.sixteen_bits(np.asarray(values.astype(mx.float32)), "BF16")
    np.testing.assert_array_equal(found, np.asarray(values.view(mx.uint16)))

import json

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from calibzarr.errors import OptionError
from calibzarr.models import registry
from calibzarr.models.loading import mmdit, sources
from tests.support import checkpoints


def named(name):
    """Names of a small checkpoint's weights, as their authors give them, with a prefix."""
    module = checkpoints.modules(name)["mmdit"]
    is_flux = name.startswith("flux")
    weights = checkpoints.flux_weights(module) if is_flux else checkpoints.sd3_weights(module)
    return {("" if is_flux else sources.SD3_PREFIX) + key: value for key, value in weights.items()}


@pytest.mark.parametrize("name", mmdit.CONFIGS)
def test_an_architecture_is_known_by_the_names_of_its_weights(name, tmp_path):
    for prefix, of_diffusionkit in ((sources.SD3_PREFIX, False), ("", False), ("", True)):
        weights = named(name)
        if of_diffusionkit:
            weights = dict(tree_flatten(checkpoints.modules(name)["mmdit"].parameters()))
        weights = {prefix + key.removeprefix(sources.SD3_PREFIX): v for key, v in weights.items()}
        file = tmp_path / "own.safetensors"
        mx.save_safetensors(str(file), weights)
        expected = sources.Source(name, file, None, of_diffusionkit)
        assert sources.find(str(file)) == sources.find(str(tmp_path)) == expected
        entry = registry.find(str(file))
        assert (entry.name, entry.licence) == (str(file), None)


def test_a_decoder_is_found_in_the_file_or_beside_it(tmp_path):
    file = tmp_path / "own.safetensors"
    mx.save_safetensors(str(file), named("flux-dev"))
    (tmp_path / "ae.safetensors").touch()
    assert sources.find(str(file)).decoder == tmp_path / "ae.safetensors"
    assert registry.find(str(file)).files == tuple(
        pair for pair in registry.find("flux-dev").files if "FLUX" not in pair[0]
    )
    vae = {"first_stage_model.decoder.conv_in.weight": mx.zeros(1)}
    mx.save_safetensors(str(file), {**named("sd3-medium"), **vae})
    assert sources.find(str(file)).decoder == file


def safetensors(names, dtype="F16"):
    text = json.dumps(
        {name: {"dtype": dtype, "shape": [0], "data_offsets": [0, 0]} for name in names}
    )
    return len(text).to_bytes(8, "little") + text.encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "own.safetensors is no safetensors file: its beginning is none"),
        (b"\xff" * 100, "is no safetensors file: its beginning is none"),
        ((9).to_bytes(8, "little") + b"[" * 9, "is no safetensors file"),
        ((2).to_bytes(8, "little") + b"[]", "is no safetensors file: its header is no object"),
        (safetensors([]), "is of no known architecture"),
        (safetensors(["down.0.weight"]), "FLUX.1 schnell and dev); it has down.0.weight"),
        (
            safetensors(["double_blocks.0.a", "single_blocks.0.a"], "F8_E4M3"),
            "has weights of F8_E4M3; give one of 16 or 32 bits",
        ),
        (safetensors(["lora_unet_double_blocks.0.lora_up"]), "holds a LoRA alone; merge it"),
        (safetensors(["transformer_blocks.0.attn.to_q.weight"]), "has diffusers' names"),
        (
            safetensors(["joint_blocks.0.x_block.attn2.qkv.weight"]),
            "3.5 medium, which is not known",
        ),
    ],
)
def test_files_of_another_kind_are_refused_with_the_reason(tmp_path, content, message):
    file = tmp_path / "own.safetensors"
    file.write_bytes(content)
    with pytest.raises(OptionError) as caught:
        registry.find(str(file))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_without_weights_and_names_of_nothing_are_refused(tmp_path):
    for name, message in (
        (str(tmp_path), "has to have one file of weights, *.safetensors; it has none"),
        (str(tmp_path / "a" / "b"), "there is no "),
        ("someone/else", "calibzarr.download('someone/else')"),
        ("sdxl", "unknown model 'sdxl'; the models are tiny, "),
    ):
        with pytest.raises(OptionError) as caught:
            registry.find(name)
        assert message in str(caught.value)
    for file in ("a.safetensors", "b.safetensors"):
        (tmp_path / file).touch()
    with pytest.raises(OptionError, match=r"it has a\.safetensors, b\.safetensors"):
        registry.find(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model": "tiny", "quantization": {}}')
    with pytest.raises(OptionError, match="checkpoint of calibzarr's, which runs beside a ref"):
        registry.find(str(tmp_path))

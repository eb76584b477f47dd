import pytest

from calibzarr.errors import OptionError
from calibzarr.models import registry, tiny


@pytest.mark.parametrize("name", registry.MODELS)
def test_defaults_pass_the_models_own_checks(name):
    entry = registry.find(name)
    entry.check_image_size(entry.image_size)
    entry.check_cfg_weight(entry.cfg_weight)
    assert entry.name == name
    assert (entry.repository is None) == (not entry.files)


@pytest.mark.parametrize(
    ("name", "image_size", "cfg_weight", "num_steps", "shift"),
    [
        ("tiny", 64, 3.0, 50, 3.0),
        ("sd3-medium", 512, 7.5, 50, 3.0),
        ("sd3.5-large", 1024, 7.5, 50, 3.0),
        ("flux-schnell", 512, 0.0, 4, 1.0),
        ("flux-dev", 512, 0.0, 50, 1.0),
    ],
)
def test_documented_defaults(name, image_size, cfg_weight, num_steps, shift):
    entry = registry.find(name)
    actual = entry.image_size, entry.cfg_weight, entry.num_steps, entry.shift
    assert actual == (image_size, cfg_weight, num_steps, shift)


@pytest.mark.parametrize("image_size", [0, 8, 63, 65, 144])
def test_sizes_that_the_model_cannot_make(image_size):
    message = f"multiple of 16 from 16 to 128 for tiny, got {image_size}"
    with pytest.raises(OptionError, match=message):
        registry.find("tiny").check_image_size(image_size)


@pytest.mark.parametrize("cfg_weight", [-1.0, float("nan"), float("inf")])
def test_guidance_weights_that_make_no_sense(cfg_weight):
    with pytest.raises(OptionError, match="0 or more"):
        registry.find("tiny").check_cfg_weight(cfg_weight)


def test_damaged_embedded_weights_are_told(tmp_path, monkeypatch):
    damaged = bytearray(tiny.WEIGHTS.read_bytes())
    damaged[-1] ^= 1
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(damaged)
    monkeypatch.setattr(tiny, "WEIGHTS", path)
    with pytest.raises(ValueError, match="is damaged: its SHA-256"):
        registry.load("tiny")

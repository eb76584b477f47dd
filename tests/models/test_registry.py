import numpy as np
import pytest

from calibzarr.errors import OptionError
from calibzarr.models import builtin, formulas, registry, tiny


@pytest.mark.parametrize("name", builtin.MODELS)
def test_defaults_pass_the_models_own_checks(name):
    entry = registry.find(name)
    entry.check_image_size(entry.image_size)
    entry.check_cfg_weight(entry.cfg_weight)
    assert entry.name == name
    assert (entry.repository is None) == (not entry.files)
    assert builtin.MODELS[name] is entry


@pytest.mark.parametrize(
    ("name", "image_size", "cfg_weight", "num_steps", "schedule"),
    [
        ("tiny", 64, 3.0, 50, "diffusionkit.sd3(shift=3.0)"),
        ("sd3-medium", 512, 7.5, 50, "diffusionkit.sd3(shift=3.0)"),
        ("sd3.5-large", 1024, 7.5, 50, "diffusionkit.sd3(shift=3.0)"),
        ("flux-schnell", 512, 0.0, 4, "diffusionkit.flux(shift=1.0)"),
        ("flux-dev", 512, 0.0, 50, "diffusionkit.flux(shift=1.0)"),
    ],
)
def test_documented_defaults(name, image_size, cfg_weight, num_steps, schedule):
    entry = registry.find(name)
    actual = entry.image_size, entry.cfg_weight, entry.num_steps, entry.schedule.name
    assert actual == (image_size, cfg_weight, num_steps, schedule)


def test_formulas_are_what_the_model_does(tiny):
    entry, schedule = registry.find("tiny"), tiny.schedule(7)
    np.testing.assert_allclose(entry.schedule.sigma(7), schedule.sigma, atol=1e-6)
    np.testing.assert_allclose(entry.schedule.timestep(schedule.sigma), schedule.timestep)
    shape = entry.latent_shape(64)
    assert shape == tiny.latent_shape(64)
    states = tiny.to_numpy(tiny.initial_latents([3, 9], 64, schedule))
    np.testing.assert_array_equal(states, [entry.noise.draw(seed, shape) for seed in (3, 9)])


def test_manifests_name_formulas_or_are_diffusionkits():
    older = {"model": "tiny", "sampler": "euler(shift=1.7)"}
    assert registry.noise_of(older) is formulas.NOISE
    names = [formula.name for formula in registry.schedules_of(older)]
    assert names == ["diffusionkit.sd3(shift=1.7)", "diffusionkit.flux(shift=1.7)"]
    named = {**older, "noise": formulas.NOISE.name, "schedule": "diffusionkit.flux(shift=1.0)"}
    assert registry.noise_of(named) is formulas.NOISE
    assert registry.schedules_of(named) == (builtin.FLUX_SCHNELL.schedule,)
    unknown = {"model": "elsewhere", "noise": "its own", "schedule": "its own"}
    assert registry.noise_of(unknown) is None
    assert registry.schedules_of(unknown) == ()


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

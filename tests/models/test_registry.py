import pytest

from calibzarr.models import builtin, formulas, registry
from calibzarr.models.base import Model


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


def test_what_a_loaded_model_is_checked_for_is_the_protocol():
    methods = {
        name for name, value in vars(Model).items() if callable(value) and not name.startswith("_")
    }
    assert set(registry._METHODS) == methods

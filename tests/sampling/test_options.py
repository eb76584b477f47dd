import re
from pathlib import Path

import pytest

from calibzarr.commands.spelling import spelled
from calibzarr.errors import OptionError
from calibzarr.models import registry
from calibzarr.sampling.options import BuildOptions, Settings, refuse_differences
from tests.support.commands import at_work

TINY = registry.find("tiny")


def test_what_is_given_counts_before_the_store_and_the_store_before_the_model():
    settings = Settings.of(BuildOptions(seed=7), {"seed": 3, "num_steps": 4}, TINY)
    assert (settings.seed, settings.num_steps) == (7, 4)
    assert settings.cfg_weight == TINY.cfg_weight
    assert settings.image_size == TINY.image_size
    assert (settings.batch_size, settings.latent_dtype) == (1, "float32")


def test_a_guidance_weight_is_a_float():
    assert repr(Settings.of(BuildOptions(cfg_weight=2), {}, TINY).cfg_weight) == "2.0"


@pytest.mark.parametrize(
    ("name", "value", "python", "typed"),
    [
        ("latent_dtype", "float16", "begun with latent_dtype 'float32'", "begun with --dtype"),
        ("seed", 2, "begun with seed 1", "begun with --seed 1"),
        ("model_fingerprint", "b", "begun with model_fingerprint 'a'", "with model_fingerprint"),
    ],
)
def test_differences_are_told_as_their_parameters_are_spelled(name, value, python, typed):
    stored = {"latent_dtype": "float32", "seed": 1, "model_fingerprint": "a"}
    refuse_differences(Path("a"), stored, {**stored, "seed": None})
    with pytest.raises(OptionError, match=re.escape(python)) as error:
        refuse_differences(Path("a"), stored, {name: value})
    with at_work("build"):
        assert typed in spelled(error.value.message)

import re

import pytest

from calibzarr.errors import OptionError
from calibzarr.models import registry


@pytest.mark.parametrize("image_size", [0, 8, 63, 65, 144])
def test_sizes_that_the_model_cannot_make(image_size):
    message = f"multiple of 16 from 16 to 128 for tiny, got {image_size}"
    with pytest.raises(OptionError, match=message):
        registry.find("tiny").check_image_size(image_size)


@pytest.mark.parametrize("cfg_weight", [-1.0, float("nan"), float("inf")])
def test_guidance_weights_that_make_no_sense(cfg_weight):
    with pytest.raises(OptionError, match="0 or more"):
        registry.find("tiny").check_cfg_weight(cfg_weight)


def test_only_a_model_that_is_told_of_a_guidance_takes_one():
    registry.find("flux-dev").check_guidance(2.5)
    for entry in (registry.find("tiny"), registry.find("flux-dev")):
        entry.check_guidance(entry.guidance)
    with pytest.raises(OptionError, match=r"tiny is not told of a guidance, got guidance 2\.5"):
        registry.find("tiny").check_guidance(2.5)
    for guidance in (-1.0, float("nan"), 1e39):
        with pytest.raises(OptionError, match=re.escape(f"to 1000, got {guidance}")):
            registry.find("flux-dev").check_guidance(guidance)
    with pytest.raises(OptionError, match="classifier-free guidance: cfg_weight must be 0, got 7"):
        registry.find("flux-dev").check_cfg_weight(7)

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

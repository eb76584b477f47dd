import re

import pytest

from calibzarr.errors import StoreError
from calibzarr.quantization.configuration import check_model, parse
from tests.support.configurations import WIDTHS, content, layers


def test_the_model_that_it_is_for_is_accepted():
    for fingerprint in ("0123", None):
        check_model(parse(content()), layers(), fingerprint, "tiny")
    said = content(((4, 3), (16, 16)), weights="mlx-64")  # 96 is no multiple, and not quantized
    check_model(parse(said), layers(), "0123", "tiny")


def test_other_weights_are_refused_by_their_fingerprints():
    message = "of tiny with fingerprint 0123, and those of large have 4567"
    with pytest.raises(StoreError, match=message) as raised:
        check_model(parse(content()), layers(), "4567", "large")
    assert "no layer" not in str(raised.value)
    with pytest.raises(StoreError, match=message + r"; large has no layer a.image.mlp.fc1"):
        check_model(parse(content()), layers({"b.q_proj": 64}), "4567", "large")


def test_layers_that_do_not_exist_are_named_with_near_ones():
    message = "tiny has no layer a.image.mlp.fc2 (near: a.image.mlp.fc1)"
    known = layers({"a.image.mlp.fc1": 64, "unlike": 64})
    with pytest.raises(StoreError, match=re.escape(message)):
        check_model(parse(content()), known, "0123", "tiny")
    with pytest.raises(StoreError, match=r"no layer a.image.mlp.fc1; such rows are 2"):
        check_model(parse(content()), [], "0123", "tiny")


def test_another_module_and_a_group_that_does_not_divide_are_refused():
    said = content()
    said["layer_configs"]["a.image.mlp.fc2"]["module"] = "blocks.1"
    with pytest.raises(StoreError, match=r"fc2 is blocks.1 and must be blocks.0.image.mlp.fc2"):
        check_model(parse(said), layers(), "0123", "tiny")
    said = content(((4, 3), (4, 4)), weights="mlx-64")
    message = "group_size of layer a.image.mlp.fc2 is 64 and must divide its width, 96"
    with pytest.raises(StoreError, match=message):
        check_model(parse(said), layers(WIDTHS), "0123", "tiny")

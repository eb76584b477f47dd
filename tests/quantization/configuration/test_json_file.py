"""Another program, which knows a configuration's JSON and no line of the package."""

import json

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from calibzarr.quantization.configuration import parse
from calibzarr.quantization.configuration.json_file import schema
from calibzarr.quantization.quantizers import (
    quantized_by_group,
    quantized_by_scale,
    quantized_by_tensor,
    quantized_by_token,
    weight_scales,
)
from tests.support.configurations import content, values

LAYER = "a.image.mlp.fc1"
X, W = values((400, 64)), values((24, 64), seed=1) / 20


def inputs(said, layer, sigma, x):
    """What becomes of a layer's inputs, by the schema's words."""
    row = said["layer_configs"][layer]
    own = row["activation"]
    if said["activation"]["by_phase"]:
        for name, phase in said["phases"].items():
            low, high = phase["sigma_min"], phase["sigma_max"]
            if (low is None or sigma > low) and (high is None or sigma <= high):
                own = row["phases"][name]
    if own is None:
        return x
    if said["activation"]["quantizer"] == "token":
        low = np.minimum(x.min(axis=-1, keepdims=True), 0)
        scale = (np.maximum(x.max(axis=-1, keepdims=True), 0) - low) / np.float32(own["highest"])
        scale[scale == 0] = 1
        zero_point = -np.round(low / scale)
    else:
        scale, zero_point = np.float32(own["scale"]), own["zero_point"]
    q = np.clip(np.round(x / scale) + zero_point, own["lowest"], own["highest"])
    return scale * (q - zero_point)


def weight(said, layer, w):
    """What becomes of a layer's weight, by the schema's words."""
    own = said["layer_configs"][layer]["weight"]
    low, high = (own and own[end] for end in ("lowest", "highest"))
    if own is None:
        return w
    if own["group_size"] is None:
        axis = 1 if own["scheme"] == "row" else None
        greatest = np.abs(w).max(axis=axis, keepdims=True)
        scales = [greatest * np.float32(r / high) for r in np.linspace(0.3, 1, 36)]
        scales = [np.where(greatest > 0, scale, np.float32(1)) for scale in scales]
        tried = [scale * np.clip(np.round(w / scale), low, high) for scale in scales]
        errors = [np.square(one - w).sum(axis=axis, keepdims=True) for one in tried]
        return np.take_along_axis(
            np.stack(tried), np.broadcast_to(np.argmin(errors, axis=0), w.shape)[None], axis=0
        )[0]
    stored = np.float16 if w.dtype == np.float32 else w.dtype
    groups = w.astype(stored).astype(np.float32).reshape(-1, own["group_size"])
    a, b = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
    down = np.abs(a) > np.abs(b)
    s = np.maximum((b - a) / np.float32(high), np.float32(1e-7)) * np.where(down, 1, -1)
    s, e = s.astype(np.float32), np.where(down, a, b)
    n = np.round(e / s)
    s = np.where(n != 0, e / np.where(n != 0, n, 1), s)
    bias = np.where(n != 0, e, 0)
    q = np.clip(np.round((groups - bias) / s), low, high)
    scale, bias = (array.astype(stored).astype(np.float32) for array in (s, bias))
    return (scale * q + bias).reshape(w.shape).astype(np.float32)


def through_json(said):
    return json.loads(json.dumps(said))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("ends", [(-1.7, 2.3), (0.4, 3.1), (-5.3, -1.0), (0.0, 0.0)])
def test_static_activations_are_rebuilt(bits, ends):
    said = through_json(content(((bits, 3), (16, 16)), low=ends[0], high=ends[1]))
    own = parse(said).layers[0].activation
    expected = quantized_by_tensor(X, own.scale, own.zero_point, own.bits)
    np.testing.assert_array_equal(inputs(said, LAYER, 0.5, X), expected)
    if ends[0] < 0 < ends[1]:
        assert len(np.unique(expected)) == 2**bits
    assert inputs(said, "a.image.mlp.fc2", 0.5, X) is X


def test_activations_by_phase_are_rebuilt():
    said = through_json(content(by_phase=True, phases=(3, 16, 6)))
    configuration = parse(said)
    for sigma in (3.0, 0.75, 0.5, 0.25, 0.1):
        own = configuration.activations(sigma)[0]
        expected = X
        if own is not None:
            expected = quantized_by_tensor(X, own.scale, own.zero_point, own.bits)
        np.testing.assert_array_equal(inputs(said, LAYER, sigma, X), expected)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_activations_by_token_are_rebuilt(bits):
    said = through_json(content(((bits, 3), (16, 16)), scheme="token"))
    tokens = X.copy()
    tokens[0], tokens[1], tokens[2] = 0, np.abs(tokens[1]), -np.abs(tokens[2])
    own = parse(said).layers[0].activation
    expected = quantized_by_token(tokens, own.bits)
    np.testing.assert_array_equal(inputs(said, LAYER, 0.5, tokens), expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("scheme", ["tensor", "row"])
def test_weights_by_tensor_and_by_row_are_rebuilt(scheme, bits):
    said = through_json(content(((4, bits), (16, 16)), weights=scheme))
    own = parse(said).layers[0].weight
    array = W.copy()
    array[3] = 0
    scale = weight_scales(array, own.bits)[own.scheme == "row"]
    expected = quantized_by_scale(array, scale, own.bits)
    np.testing.assert_array_equal(weight(said, LAYER, array), expected)
    assert weight(said, "a.image.mlp.fc2", array) is array


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("scheme", ["mlx-32", "mlx-64"])
def test_weights_in_groups_are_rebuilt(scheme, bits):
    said = through_json(content(((4, bits), (16, 16)), weights=scheme))
    own = parse(said).layers[0].weight
    stored = W.astype(np.float16)
    stored[3] = 0
    stored[4] = np.abs(stored[4])
    expected = quantized_by_group(stored, own.group_size, own.bits)
    np.testing.assert_array_equal(weight(said, LAYER, stored), expected)


def test_the_schema_is_one_and_tells_of_every_field():
    Draft202012Validator.check_schema(schema())
    for scheme in ("tensor", "token"):
        Draft202012Validator(schema()).validate(content(scheme=scheme))
    for name in ("activation", "weight"):
        assert "becomes scale * " in schema()["$defs"][name]["description"]

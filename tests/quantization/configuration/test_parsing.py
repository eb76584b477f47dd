import json
import math
import re
from copy import deepcopy

import numpy as np
import pytest

from calibzarr.errors import StoreError
from calibzarr.quantization.configuration import Phase, parse, read
from calibzarr.quantization.quantizers import Quantizer
from tests.support.configurations import WIDTHS, content

LAYER = ("layer_configs", "a.image.mlp.fc1")
OF = "of layer a.image.mlp.fc1"
REMOVED = object()


def changed(said, path, value):
    """A copy with one field changed, by hand."""
    copy = deepcopy(said)
    *parents, last = path
    parent = copy
    for name in parents:
        parent = parent[name]
    if value is REMOVED:
        del parent[last]
    else:
        parent[last] = value
    return copy


def test_it_reads_what_the_file_says(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content(by_phase=True)))
    configuration = read(file)
    assert configuration.content == content(by_phase=True)
    assert [layer.name for layer in configuration.layers] == list(WIDTHS)
    assert configuration.phases == (
        Phase("early", 0.75, None),
        Phase("mid", 0.25, 0.75),
        Phase("late", None, 0.25),
    )
    assert (configuration.scheme, configuration.by_phase) == ("tensor", True)
    assert (configuration.model, configuration.model_fingerprint) == ("tiny", "0123")
    first, second = configuration.layers
    assert first.module == "blocks.0.image.mlp.fc1"
    assert first.weight == Quantizer("weight", "row", 3)
    assert first.activation.scale == np.float32(3 / 15)
    assert first.activation.zero_point == 5
    assert [own.bits for own in first.by_phase] == [4, 5, 6]
    assert second.activation is second.weight is None
    chosen = [configuration.activations(sigma)[0].bits for sigma in (2, 0.75, 0.26, 0.25, 0.0)]
    assert chosen == [4, 5, 5, 6, 6]


def test_phases_may_stand_in_any_order():
    said = content()
    sorted_keys = json.loads(json.dumps(said, sort_keys=True))
    assert parse(sorted_keys).phases == parse(said).phases
    assert {layer.name: layer for layer in parse(sorted_keys).layers} == {
        layer.name: layer for layer in parse(said).layers
    }


def test_equal_contents_have_one_hash_whatever_their_order(tmp_path):
    said = content()
    backwards = dict(reversed(said.items()))
    assert parse(said).sha256 == parse(backwards).sha256
    other = changed(said, (*LAYER, "activation", "scale"), 0.25)
    assert parse(other).sha256 != parse(said).sha256


@pytest.mark.parametrize(
    ("options", "path", "value", "message"),
    [
        ({}, (*LAYER, "activation", "bits"), 11, f"activation.bits {OF} is 11 and must be from 2"),
        ({}, (*LAYER, "activation_bits"), 11, f"activation_bits {OF} is 11 and must be one of 2,"),
        ({}, (*LAYER, "activation_bits"), 5, f"activation_bits {OF} is 5 and must be 4, as in its"),
        ({}, (*LAYER, "weight_bits"), 16, f"weight_bits {OF} is 16 and must be 3, as in its wei"),
        ({}, (*LAYER, "activation", "scale"), 0, f"activation.scale {OF} is 0 and must be above 0"),
        ({}, (*LAYER, "activation", "scale"), 1e-60, f"scale of activation {OF} is 1e-60 and must"),
        ({}, (*LAYER, "activation", "scale"), 1e39, f"scale of activation {OF} is 1e+39 and must"),
        ({}, (*LAYER, "activation", "scale"), math.nan, f"scale {OF} is nan and must be a finite"),
        ({}, (*LAYER, "clip_min"), -math.inf, f"clip_min {OF} is -inf and must be a finite"),
        ({}, (*LAYER, "activation", "scale"), REMOVED, f"activation {OF} has no scale"),
        ({}, (*LAYER, "activation", "zero_point"), 16, "is 16 and must be a level, from 0 to 15"),
        ({}, (*LAYER, "activation", "zero_point"), -1, "is -1 and must be 0 or more"),
        ({}, (*LAYER, "activation", "zero_point"), 1.5, "is 1.5 and must be a whole number"),
        ({}, (*LAYER, "activation", "highest"), 7, "is 7 and must be 15, with 4 bits"),
        ({}, (*LAYER, "weight", "lowest"), -4, f"lowest of weight {OF} is -4 and must be -3"),
        ({}, (*LAYER, "weight", "scheme"), "head", 'is "head" and must be one of "tensor", "row"'),
        ({}, (*LAYER, "weight", "scheme"), "tensor", "is tensor, and the file's is row"),
        ({}, ("weight", "quantizer"), "awq", 'weight.quantizer is "awq" and must be one of'),
        ({}, ("activation", "quantizer"), "head", 'activation.quantizer is "head" and must be'),
        ({}, ("activation", "by_phase"), 1, "activation.by_phase is 1 and must be true or false"),
        ({}, ("schema_version",), 3, "schema_version is 3 and must be 2"),
        ({}, ("layer_configs",), [], "layer_configs is [] and must be an object"),
        ({}, (*LAYER, "module"), REMOVED, "layer a.image.mlp.fc1 has no module"),
        ({}, (*LAYER, "shift"), 1, 'layer a.image.mlp.fc1 has a "shift", and only these are known'),
        ({}, ("phases",), REMOVED, "the configuration has no phases"),
        ({}, ("phases", "mid"), REMOVED, "phases.late.sigma_max is 0.25 and must be 0.75: where"),
        ({}, ("phases", "mid", "sigma_min"), 0.2, "phases.late.sigma_max is 0.25 and must be 0.2"),
        ({}, ("phases", "early", "sigma_max"), 1, "early.sigma_max is 1 and must be null: the fir"),
        ({}, ("phases", "late", "sigma_min"), 0, "late.sigma_min is 0 and must be null: the last"),
        ({}, (*LAYER, "phases", "mid"), REMOVED, f"phases {OF} are early, late and must be those"),
        ({}, (*LAYER, "phases", "mid", "scale"), -1, f"phases.mid.scale {OF} is -1 and must be ab"),
        ({"by_phase": True}, (*LAYER, "phases"), REMOVED, f"phases {OF} are missing and must be"),
        ({"scheme": "token"}, (*LAYER, "activation", "scale"), 1, "by token each has its own"),
        ({"weights": "mlx-64"}, (*LAYER, "weight", "bits"), 7, "are 7 and must be one of 2, 3, 4"),
        ({"weights": "mlx-64"}, (*LAYER, "weight", "group_size"), 32, "is 32 and must be 64, by"),
        ({"weights": "mlx-64"}, (*LAYER, "weight", "group_size"), 48, "is 48 and must be one of"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else None,
)
def test_what_makes_no_sense_is_named_in_one_line(options, path, value, message):
    said = changed(content(**options), path, value)
    if path[-2:] == ("weight", "bits"):
        said["layer_configs"][LAYER[1]]["weight_bits"] = value
    with pytest.raises(StoreError, match=re.escape(message)) as raised:
        parse(said)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_phases_that_do_not_fall_are_refused():
    said = content()
    high = said["phases"]["mid"]["sigma_max"]
    said["phases"]["mid"] |= {"sigma_min": high}
    said["phases"]["late"] |= {"sigma_max": high}
    with pytest.raises(StoreError, match=rf"sigma_min is {high} and must be below sigma_max"):
        parse(said)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"schema_version": 2', "is no configuration in JSON: "),
        (b'{"schema_version": NaN}', "NaN is no number of JSON"),
        (b'{"schema_version": -Infinity}', "-Infinity is no number of JSON"),
        (b'{"a": 1, "a": 2}', "'a' stands twice in one object"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b"", "is no configuration in JSON"),
        (b"[" * 100_000, "is no configuration in JSON"),
        (b'{"schema_version": ' + b"9" * 5000 + b"}", "is no configuration in JSON"),
        (b"[]", "it is no configuration: [], and must be an object"),
        (b"{}", "the configuration has no schema_version"),
        (b'{"default_config": {}, "layer_configs": {}}', "no schema_version, as files of older"),
    ],
    ids=str,
)
def test_files_that_are_none_are_refused_by_name(tmp_path, text, message):
    file = tmp_path / "a.json"
    file.write_bytes(text)
    with pytest.raises(StoreError, match=re.escape(message)) as raised:
        read(file)
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a directory; name the configuration's file"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*a\.json"):
        read(tmp_path / "a.json")
    (tmp_path / "large.json").touch()
    with (tmp_path / "large.json").open("r+b") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(StoreError, match="a regular file of at most 256 MiB"):
        read(tmp_path / "large.json")


def of_version_1(role="input"):
    own = {"weight_bits": 6, "activation_bits": 4, "clip_min": -1.0, "clip_max": 2.0}
    rest = {"sqnr_db": 31.0, "module": "blocks.0", "role": role, "phases": {"early": {}}}
    provenance = {"model": "tiny", "model_fingerprint": "0123", "method": "sqnr"}
    rows = {"a": own | rest, "b": own | rest | {"clip_min": 0.0, "clip_max": 0.0}}
    rows["block"] = own | rest | {"role": "output"}
    said = {"schema_version": 1, "layer_configs": rows, "phases": {}, "provenance": provenance}
    return said | {"quantizers": {"activations": "affine", "weights": "symmetric"}}


def test_files_of_version_1_are_static_and_by_tensor():
    configuration = parse(of_version_1())
    assert [layer.name for layer in configuration.layers] == ["a", "b"]
    assert (configuration.scheme, configuration.by_phase, configuration.phases) == (
        "tensor",
        False,
        (),
    )
    assert configuration.model_fingerprint == "0123"
    first, second = configuration.layers
    assert first.weight == second.weight == Quantizer("weight", "tensor", 6)
    assert (first.activation.scale, first.activation.zero_point) == (np.float32(0.2), 5)
    assert (second.activation.scale, second.activation.zero_point) == (1, 0)
    assert configuration.activations(0.5) == (first.activation, second.activation)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("layer_configs", "a", "activation_bits"), 9, "activation_bits of layer a is 9 and must"),
        (("layer_configs", "a", "clip_max"), math.nan, "clip_max of layer a is nan and must be a"),
        (("layer_configs", "a", "clip_min"), 3.0, "clip_min of layer a is 3.0 and must be at most"),
        (("layer_configs", "a", "clip_min"), None, "clip_min of layer a is null and must be a num"),
        (("layer_configs", "b", "module"), REMOVED, "layer b has no module"),
    ],
)
def test_nonsense_of_version_1_is_named_too(path, value, message):
    with pytest.raises(StoreError, match=re.escape(message)):
        parse(changed(of_version_1(), path, value))


def test_files_of_block_rows_alone_are_refused():
    for said in (of_version_1(), content()):
        for own in said["layer_configs"].values():
            own["role"] = "output"
        with pytest.raises(StoreError, match="has no row of a linear layer"):
            parse(said)

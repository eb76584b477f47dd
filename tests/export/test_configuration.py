import json

import numpy as np
import pytest
import xarray as xr

from calibzarr.export.configuration import configuration
from calibzarr.export.writing import as_json, bits_in_words
from calibzarr.quantization.configuration import SCHEMA_VERSION, json_file, parse
from calibzarr.quantization.quantizers import Quantizer, affine, quantized_by_tensor

LAYERS = ["a", "a.fc1", "a.fc2", "a.fc3"]
PHASES = ["early", "mid", "late"]
ENDS = np.array([[-3.1, 2.0], [-0.7, 1.3], [0.0, 0.0], [-2.5, 2.5]], dtype=np.float32)
BY_PHASE = np.stack([ENDS * 0.9, ENDS * 0.8, ENDS * 0.7], axis=1)


def recommended(scheme="tensor", weights="row", **options):
    """What a recommendation says of one block with three linear layers, the last unquantized."""
    group = {"mlx": "mlx-64"}.get(weights, weights)
    statistics = {
        "value_min": [-4.0, -1.0, 0.0, -3.0],
        "value_max": [3.0, 2.0, 0.0, 3.0],
        "value_mean": [0.1, 0.2, 0.0, 0.3],
        "value_std": [1.0, 0.5, 0.0, 1.0],
        "p01": [-2.5, -0.6, 0.0, -2.0],
        "p99": [2.5, 1.2, 0.0, 2.0],
        "clip_min_fraction": [0.001, 0.002, 0.0, 0.003],
        "clip_max_fraction": [0.999, 0.998, 1.0, 0.997],
    }
    layers = {
        **statistics,
        "activation_bits": [5, 5, 3, 16],
        "weight_bits": [6, 4, 6, 16],
        "weight_scheme": ["", group, group, ""],
        "clip_min": ENDS[:, 0],
        "clip_max": ENDS[:, 1],
        "reason": ["a block", "costly", "cheap", "kept"],
        "module": ["blocks.0", "blocks.0.fc1", "blocks.0.fc2", "blocks.0.fc3"],
        "role": ["output", "input", "input", "input"],
        "stream": ["image"] * 4,
        "kind": ["block", "mlp.fc1", "mlp.fc2", "mlp.fc3"],
    }
    phases = {
        "phase_bits": [[5, 4, 6], [5, 4, 6], [3, 16, 2], [16, 16, 16]],
        "phase_clip_min": BY_PHASE[..., 0],
        "phase_clip_max": BY_PHASE[..., 1],
    }
    manifest = {
        "model": "tiny",
        "model_fingerprint": "0123",
        "prompts_sha256": "4567",
        "num_steps": 6,
        "activations": {"stamp": "89ab", "num_images": 5, "steps": [0, 3, 6], "libraries": {}},
        "sensitivity": {"stamp": "cdef", "clip": "mse"},
        "options": {"activation_quantizer": scheme, "weight_quantizer": weights, **options},
        "prediction": {"output_sqnr_db": 12.5, "steps": [0, 3]},
        "by_phase": options.get("by_phase") is not False,
        "clip": "mse",
    }
    return xr.Dataset(
        {
            **{name: ("layer", values) for name, values in layers.items()},
            **{name: (("layer", "phase"), values) for name, values in phases.items()},
            "activation_share": (("layer", "sensitivity_step"), [[0, 0], *[[0.5, 0.25]] * 3]),
            "weight_share": (("layer", "sensitivity_step"), [[0, 0], *[[0.5, 1 / 3]] * 3]),
            "first_step": ("phase", [0, 2, 4]),
            "end_step": ("phase", [2, 4, 6]),
            "sigma_min": ("phase", [2 / 3, 1 / 3, np.nan]),
            "sigma_max": ("phase", [np.nan, 2 / 3, 1 / 3]),
        },
        {"layer": LAYERS, "phase": PHASES, "sensitivity_step": [0, 3]},
        manifest,
    )


def written(*args, granularity="all", **options):
    content = json.loads(as_json(configuration(recommended(*args, **options), granularity)))
    json_file.check(content, SCHEMA_VERSION)
    return content


def test_quantizers_read_from_the_file_are_those_that_were_recommended():
    configuration = parse(written())
    values = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    assert [layer.name for layer in configuration.layers] == LAYERS[1:]
    assert configuration.by_phase
    for sigma, phase in ((0.9, 0), (2 / 3, 1), (0.5, 1), (1 / 3, 2), (0.01, 2)):
        bits = [[5, 4, 6], [3, 16, 2], [16, 16, 16]]
        for row, own in enumerate(configuration.activations(sigma)):
            if bits[row][phase] == 16:
                assert own is None
                continue
            expected = affine(*BY_PHASE[row + 1, phase], bits[row][phase])
            if expected[0] > 0:
                assert (np.float32(own.scale), own.zero_point) == expected
            actual = quantized_by_tensor(values, own.scale, own.zero_point, own.bits)
            wanted = quantized_by_tensor(values, *map(float, expected), own.bits)
            if expected[0] > 0:
                np.testing.assert_array_equal(actual, wanted)
    static = affine(*ENDS[1], 5)
    own = configuration.layers[0].activation
    assert (own.bits, np.float32(own.scale), own.zero_point) == (5, *static)
    assert [layer.weight for layer in configuration.layers] == [
        Quantizer("weight", "row", 4),
        Quantizer("weight", "row", 6),
        None,
    ]


def test_inputs_that_are_always_zero_have_a_scale_that_can_be_read():
    own = written()["layer_configs"]["a.fc2"]["activation"]
    assert own == {"bits": 3, "lowest": 0, "highest": 7, "scale": 1.0, "zero_point": 0}


def test_phases_touch_and_have_no_outer_bounds():
    phases = written()["phases"]
    assert [list(phase.values()) for phase in phases.values()] == [
        [0, 1, 2 / 3, None],
        [2, 3, 1 / 3, 2 / 3],
        [4, 5, None, 1 / 3],
    ]


def test_the_allocation_by_phase_can_be_declined_or_not_be_had():
    content = written(by_phase=False)
    assert content["activation"]["by_phase"] is False
    assert set(content["layer_configs"]["a.fc1"]["phases"]) == set(PHASES)
    dataset = recommended()
    dataset.phase_bits[1:, 2] = 0
    content = configuration(dataset)
    assert content["activation"]["by_phase"] is False
    assert not any("phases" in row for row in content["layer_configs"].values())
    parse(content)


def test_by_token_the_range_is_what_was_observed():
    content = written("token")
    row = content["layer_configs"]["a.fc1"]
    assert row["activation"] == {"bits": 5, "lowest": 0, "highest": 31}
    assert row["phases"]["mid"] == {"bits": 4, "lowest": 0, "highest": 15}
    assert (row["clip_min"], row["clip_max"], row["clip_percentile"]) == (-1, 2, [0, 100])
    assert parse(content).activations(0.5)[0].bits == 4


def test_where_a_range_ends_is_always_a_number():
    dataset = recommended()
    dataset["clip_min_fraction"][:] = np.nan
    dataset["clip_max_fraction"][2:] = np.nan
    rows = json.loads(as_json(configuration(dataset, "all")))["layer_configs"]
    assert [row["clip_percentile"] for row in rows.values()] == [
        [0, 99.9],
        [0, 99.8],
        [0, 100],
        [0, 100],
    ]


@pytest.mark.parametrize("weights", ["tensor", "row", "mlx"])
def test_weights_have_the_scheme_and_its_levels(weights):
    own = written("tensor", weights)["layer_configs"]["a.fc1"]["weight"]
    grouped = weights == "mlx"
    assert own == {
        "scheme": "mlx-64" if grouped else weights,
        "bits": 4,
        "group_size": 64 if grouped else None,
        "lowest": 0 if grouped else -7,
        "highest": 15 if grouped else 7,
    }


def test_unquantized_layers_have_16_bits_and_blocks_none_of_their_own():
    content = written()
    rows = content["layer_configs"]
    kept, block = rows["a.fc3"], rows["a"]
    assert (kept["weight_bits"], kept["activation_bits"]) == (16, 16)
    assert kept["activation"] is kept["weight"] is None
    assert set(kept["phases"].values()) == {None}
    assert (kept["clip_min"], kept["clip_max"], kept["clip_percentile"]) == (-3, 3, [0, 100])
    assert content["default_config"] == {"weight_bits": 6, "activation_bits": 5}
    assert (block["weight_bits"], block["activation_bits"]) == (6, 5)
    assert (block["clip_min"], block["clip_percentile"]) == (pytest.approx(-3.1), [0.1, 99.9])
    assert block["activation"] is block["weight"] is None
    assert "phases" not in block


def test_rows_of_blocks_or_of_linear_layers_alone():
    assert list(written(granularity="block")["layer_configs"]) == LAYERS[:1]
    assert list(written(granularity="linear")["layer_configs"]) == LAYERS[1:]


def test_it_says_what_was_predicted_and_where_it_is_from():
    content = written(keep=["*.fc3"])
    layers = content["prediction"].pop("layers")
    assert content["prediction"] == {"output_sqnr_db": 12.5, "steps": [0, 3]}
    shares = {"activation": [0.5, 0.25], "weight": [0.5, pytest.approx(1 / 3)]}
    assert layers == dict.fromkeys(LAYERS[1:], shares)
    provenance = content["provenance"]
    assert (provenance["statistics"], provenance["sensitivities"]) == ("89ab", "cdef")
    assert (provenance["keep"], provenance["clip"]) == (["*.fc3"], "mse")


def test_words_count_what_stays_unquantized():
    told = bits_in_words(recommended(), ("activation",))
    assert told == "activations: 1 with 3 bits, 1 with 5 bits, 1 unquantized"

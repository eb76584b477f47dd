from dataclasses import replace

import numpy as np
import pytest

from calibzarr.collecting import measurement
from calibzarr.collecting.measurement import Measurement
from calibzarr.errors import StoreError
from calibzarr.quantization.levels import BITS
from calibzarr.quantization.quantizers import QUANTIZERS
from calibzarr.storage.manifest import read_root
from tests.support.stores import create, open_strictly

ARRAYS = ("products", "power", "clip_min", "clip_max", "amplified", "decoder_gain_db")


def made_up(seed=0):
    """Of 2 layers at calls 1 and 3 of 4, with images 2 and 0, and 3 probes."""
    generator = np.random.default_rng(seed)
    ends = generator.uniform(1, 2, (2, 2, len(BITS))).astype(np.float32)
    empty = Measurement.empty([2, 0], [1, 3], 3, (-ends[0], ends[1]), (0, 2), 1)
    return replace(
        empty,
        products=generator.standard_normal(empty.products.shape).astype(np.float32),
        power=generator.uniform(1, 2, (2, 2)),
        amplified=np.array([[0.25], [0.81]]),
        decoder_gain_db=np.array([[3.5], [np.nan]]),
    )


def about(found):
    return {"num_images": len(found.images), "num_probes": 3, "steps": list(found.steps)}


@pytest.fixture
def path(tmp_path):
    create(tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


def assert_equal(actual, expected):
    for name in ("images", "steps", "amplified_steps"):
        assert getattr(actual, name) == getattr(expected, name)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name), name)
        assert getattr(actual, name).dtype == getattr(expected, name).dtype


def test_what_is_written_is_read(path):
    found = made_up()
    measurement.write(path, found, about(found))
    assert_equal(measurement.read(path, read_root(path).attributes["sensitivity"]), found)


def test_readers_see_ranges_and_amplification_where_they_belong(path):
    found = made_up()
    measurement.write(path, found, about(found))
    dataset = open_strictly(path)
    np.testing.assert_allclose(dataset.amplification, [0.25, 0.7**2, 0.81, 1, np.nan], rtol=1e-6)
    for end, values in (("min", found.clip_min), ("max", found.clip_max)):
        ranges = dataset[f"sensitivity_clip_{end}"]
        by_tensor = [f"activation-tensor-{bits}" for bits in BITS]
        named = ranges.assign_coords(quantizer=dataset.quantizer).sel(quantizer=by_tensor)
        np.testing.assert_array_equal(named, values)
        assert np.isfinite(ranges).sum() == values.size


def test_sensitivities_of_other_quantizers_are_not_read(path, monkeypatch):
    found = made_up()
    measurement.write(path, found, about(found))
    monkeypatch.setattr(measurement, "QUANTIZERS", QUANTIZERS[1:])
    with pytest.raises(ValueError, match="has sensitivities of other quantizers"):
        measurement.read(path, read_root(path).attributes["sensitivity"])


def test_more_images_and_probes_leave_what_is_measured(path):
    found = made_up()
    assert found.complete
    grown = found.grown([2, 0, 1], 4)
    assert not grown.complete
    np.testing.assert_array_equal(grown.products[..., :2, :3], found.products)
    np.testing.assert_array_equal(grown.power[:, :2], found.power)
    measured = np.zeros((2, 3, 4), bool)
    measured[:, :2, :3] = True
    np.testing.assert_array_equal(grown.measured(), measured)
    assert_equal(found.grown(found.images, 3), found)


def test_a_rollout_that_is_missing_is_no_whole_measurement():
    found = made_up()
    assert not replace(found, amplified=np.array([[0.25], [np.nan]])).complete


def test_a_checkpoint_of_another_measurement_is_not_gone_on_with(path):
    found, identity = made_up().grown([2, 0, 1], 4), {"clip": "lp", "steps": (1, 3)}
    root = read_root(path)
    root = replace(
        root,
        attributes={**root.attributes, "num_steps": 4},
        arrays={**root.arrays, "layer": {"shape": [len(found.clip_min)]}},
    )
    assert measurement.read_checkpoint(root, identity) is None
    measurement.write_checkpoint(path, found, identity)
    assert_equal(measurement.read_checkpoint(root, identity), found)
    assert measurement.read_checkpoint(root, {**identity, "clip": "mse"}) is None
    other = replace(root, arrays={**root.arrays, "layer": {"shape": [1]}})
    with pytest.raises(StoreError, match=r"its products is float32 of shape .*, not float32 of "):
        measurement.read_checkpoint(other, identity)
    file = path / "sensitivity.checkpoint"
    whole = file.read_bytes()
    for torn in (b"torn", whole[: len(whole) // 2]):
        file.write_bytes(torn)
        with pytest.raises(StoreError, match=r"sensitivity.checkpoint is damaged: its content"):
            measurement.read_checkpoint(root, identity)
    measurement.remove_checkpoint(path)
    measurement.remove_checkpoint(path)
    assert not file.exists()

import shutil

import numpy as np
import pytest

import calibzarr
from calibzarr.collecting import sensitivity_plan
from calibzarr.errors import OptionError
from tests.support.measuring import measure
from tests.support.stores import open_strictly, snapshot

pytestmark = pytest.mark.usefixtures("loaded_once")

NUM_STEPS = 4
SMALL = {"images": 2, "probes": 2, "steps": [0, 3]}


@pytest.fixture(scope="module")
def collected(make_store):
    """A store of 6 images, 5 of them collected at all states."""
    return make_store(
        num_images=6, num_steps=NUM_STEPS, image_size=32, collect={"num_images": 5, "steps": "all"}
    )


@pytest.fixture(scope="module")
def measured(collected, tmp_path_factory):
    path = tmp_path_factory.mktemp("measured") / "a.zarr"
    shutil.copytree(collected, path)
    measure(path, **SMALL)
    return path


def test_default_steps_are_two_calls_of_each_phase():
    assert sensitivity_plan.default_steps(50) == (4, 12, 20, 29, 38, 46)
    for num_steps in range(1, 7):
        assert sensitivity_plan.default_steps(num_steps) == tuple(range(num_steps))
    for num_steps in range(7, 200):
        steps = sensitivity_plan.default_steps(num_steps)
        assert 3 < len(steps) <= 6
        assert 0 <= steps[0] < steps[-1] < num_steps
    assert sensitivity_plan.amplified_steps(50) == (0, 15, 30, 40, 45, 48)
    assert sensitivity_plan.amplified_steps(4) == (0, 1, 2)
    assert sensitivity_plan.amplified_steps(1) == ()


def test_images_are_spread_over_the_collected_ones_and_those_of_before_stay(collected, measured):
    covered = np.flatnonzero(open_strictly(collected).collected_image.values).tolist()
    assert len(covered) == 5
    two, all_of_them = (
        sensitivity_plan.plan(collected, images=images).start.images for images in (2, 5)
    )
    assert set(two) < set(covered) == set(all_of_them)
    first, second = (covered.index(image) for image in two)
    assert abs(second - first) >= 2
    more = sensitivity_plan.plan(measured, **{**SMALL, "images": 4})
    before = tuple(open_strictly(measured).sensitivity_image.values.tolist())
    assert more.start.images[:2] == before
    assert len(set(more.start.images)) == 4
    assert more.passes == 2 * 2 * 2
    assert sensitivity_plan.plan(measured, **{**SMALL, "images": 1}).start.images == before


def test_too_few_images_are_told(collected):
    plan = sensitivity_plan.plan(collected, images=9)
    assert [str(note) for note in plan.notes] == ["9 images were asked for, 5 are collected"]


def test_newer_statistics_keep_the_ranges_and_say_so(measured, tmp_path):
    path = tmp_path / "a.zarr"
    shutil.copytree(measured, path)
    calibzarr.collect(path, num_images=1, steps="all", force=True)
    plan = sensitivity_plan.plan(path, **SMALL)
    assert "newer statistics" in str(plan.notes[0])
    assert plan.passes == 0
    np.testing.assert_array_equal(
        plan.start.clip_max, sensitivity_plan.plan(measured, **SMALL).start.clip_max
    )
    anew = sensitivity_plan.plan(path, **{**SMALL, "images": 1}, force=True)
    assert anew.passes == 4
    assert not np.array_equal(anew.start.clip_max, plan.start.clip_max)


WRONG = [
    ({"steps": [0, NUM_STEPS]}, "the final state is no call"),
    ({"steps": [-1]}, r"^steps must be calls from 0 to 3, got -1$"),
    ({"steps": []}, "at least one call"),
    ({"steps": "all"}, "steps must be 6, key, or a list"),
    ({"steps": 5}, "steps must be 6, key, or a list"),
    ({"probes": 0}, r"^probes must be 1 or more, got 0$"),
    ({"images": 0}, r"^images must be 1 or more, got 0$"),
    ({"clip": "best"}, r"^clip must be one of mse, lp.*got 'best'$"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options_are_refused(collected, options, message):
    before = snapshot(collected)
    with pytest.raises(OptionError, match=message):
        sensitivity_plan.plan(collected, **options)
    assert snapshot(collected) == before


def test_a_store_of_one_call_has_no_rollouts_and_can_be_added_to(make_store, tmp_path):
    options = {"num_images": 3, "num_steps": 1, "image_size": 32}
    path = shutil.copytree(make_store(**options, collect={"steps": "all"}), tmp_path / "a.zarr")
    measure(path, images=1, probes=1)
    measure(path, images=2, probes=1)
    dataset = open_strictly(path)
    assert dataset.sizes["sensitivity_image"] == 2
    np.testing.assert_array_equal(dataset.amplification.values, [1, np.nan])

"""What a collection will observe, before any model is loaded."""

import re
import shutil

import numpy as np
import pytest

import calibzarr
from calibzarr.collecting.plan import plan, spread
from calibzarr.errors import OptionError
from calibzarr.statistics.histogram import BINS, LogBins
from calibzarr.statistics.steps import key_steps
from tests.support.stores import snapshot

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture(scope="module")
def built(make_store):
    """A store of 6 images, 5 of them complete, without statistics."""
    return make_store(num_images=6, num_steps=3, images=(0, 5))


@pytest.fixture
def path(built, tmp_path):
    path = tmp_path / "a.zarr"
    shutil.copytree(built, path)
    return path


@pytest.mark.parametrize(
    ("complete", "count"), [(150, 100), (150, 149), (7, 3), (1000, 100), (5, 5), (5, 9)]
)
def test_images_are_spread_evenly(complete, count):
    chosen = spread(np.arange(complete), np.array([], dtype=int), count)
    assert len(set(chosen)) == len(chosen) == min(complete, count)
    gaps = np.diff([*chosen, complete])
    assert gaps.max() - gaps.min() <= 1
    both = np.union1d(chosen, spread(np.arange(complete), chosen, 2 * count))
    gaps = np.diff([*both, complete])
    assert len(both) == min(2 * count, complete)
    assert gaps.max() <= 2 * max(gaps.min(), complete / len(both) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": [4]}, "steps must be from 0 to 3, got 4"),
        ({"steps": [-1]}, "got -1"),
        ({"steps": []}, "at least one state"),
        ({"steps": "some"}, "must be key, all, or indices of states, got 'some'"),
        ({"num_images": 0}, "num_images must be 1 or more, got 0"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"images": (6, 9)}, "0 <= A < B <= 6, got 6:9"),
        ({"images": (5, 6)}, "no image of 5:6 is complete"),
    ],
)
def test_wrong_options_change_nothing(built, options, message):
    before = snapshot(built)
    with pytest.raises(OptionError, match=re.escape(message)):
        plan(built, **options)
    assert snapshot(built) == before


def test_key_steps_are_the_default(path):
    planned = plan(path)
    assert planned.steps == key_steps(3)
    assert planned.images.tolist() == [0, 1, 2, 3, 4]
    assert LogBins() == BINS


def test_images_that_are_no_longer_complete_are_not_replayed_as_nan(path):
    calibzarr.collect(path, steps=[0])
    (path / "latents" / "c.2.0.0.0.0").unlink()
    before = snapshot(path)
    with pytest.raises(ValueError, match=r"image 2 is among the statistics .* no longer complete"):
        calibzarr.collect(path, steps=[1])
    assert snapshot(path) == before


def test_work_is_in_batches_of_images_that_lack_the_same_steps(path):
    calibzarr.collect(path, steps=[1], images=(1, 3))
    planned = plan(path, steps=[1, 2], batch_size=2)
    assert planned.images.tolist() == [0, 1, 2, 3, 4]
    assert planned.steps == (1, 2)
    assert planned.replays == 3 * 2 + 2
    assert planned.work() == [([0], (1, 2)), ([1, 2], (2,)), ([3, 4], (1, 2))]
    assert plan(path, steps=[1], images=(0, 2), force=True).work() == [([0], (1,)), ([1], (1,))]

"""What an interrupted collection leaves, and when it still fits."""

import dataclasses
import shutil

import numpy as np
import pytest

from calibzarr.collecting import checkpoint
from calibzarr.statistics.cached import CachedStatistics
from calibzarr.statistics.histogram import BINS, LogBins
from calibzarr.statistics.reduction import reduce
from calibzarr.statistics.running import Statistics
from calibzarr.storage import collected
from calibzarr.storage.manifest import read_root


@pytest.fixture
def root(replayed, tmp_path):
    path = tmp_path / "a.zarr"
    shutil.copytree(replayed.path, path)
    return read_root(path)


@pytest.fixture
def statistics():
    """Of image 5 at step 2, with room for more."""
    statistics = Statistics.empty(BINS, 3, (0, 2), (1, 5), features=4)
    values = np.random.default_rng(0).standard_normal((1, 1, 6, 4), dtype=np.float32)
    statistics.update([0, 1, 2], 2, [5], reduce(values, BINS))
    statistics.covered[1, 1] = True
    return statistics


@pytest.fixture
def cached():
    """Of the same image and layer 2, at all 3 calls."""
    cached = CachedStatistics.empty(BINS, [2], 3, (1, 5), features=4)
    for step in range(3):
        values = np.random.default_rng(step).standard_normal((1, 1, 1, 4), dtype=np.float32)
        cached.update([2], step, [5], reduce(values, BINS))
    cached.statistics.covered[1] = True
    return cached


def test_what_is_written_is_read_again(root, statistics, cached):
    checkpoint.write(root.path, statistics, cached, collected.stamp(root))
    assert checkpoint.exists(root, BINS)
    read, of_cached = checkpoint.read(root, BINS)
    assert (read.bins, read.steps, read.images) == (BINS, (0, 2), (1, 5))
    assert of_cached.layers == (2,)
    assert of_cached.statistics.steps == (0, 1, 2)
    for actual, expected in ((read, statistics), (of_cached.statistics, cached.statistics)):
        np.testing.assert_array_equal(actual.covered, expected.covered)
        assert actual.images == expected.images
        assert actual.arrays.keys() == expected.arrays.keys()
        for name, array in expected.arrays.items():
            np.testing.assert_array_equal(actual.arrays[name], array)
    covered = checkpoint.coverage(root, BINS, (7, 4))
    assert np.argwhere(covered).tolist() == [[5, 2]]
    checkpoint.remove(root.path)
    checkpoint.remove(root.path)
    assert not checkpoint.exists(root, BINS)


def test_without_one_the_statistics_of_the_store_count(root):
    covered = checkpoint.coverage(root, BINS, (7, 4))
    assert covered[:5].all()
    assert not covered[5:].any()
    bare = dataclasses.replace(root, attributes={**root.attributes, "activations": None})
    assert not checkpoint.coverage(bare, BINS, (7, 4)).any()


def test_one_that_does_not_fit_is_none(root, statistics, cached):
    checkpoint.write(root.path, statistics, cached, "a stamp of before")
    assert not checkpoint.exists(root, BINS)
    assert checkpoint.read(root, BINS) is None
    checkpoint.write(root.path, statistics, cached, collected.stamp(root))
    assert not checkpoint.exists(root, LogBins(mantissa_bits=5))
    file = root.path / checkpoint.FILE
    file.write_bytes(file.read_bytes()[:-100])
    assert checkpoint.read(root, BINS) is None

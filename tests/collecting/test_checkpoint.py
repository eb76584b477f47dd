"""What an interrupted collection leaves, and when it still fits."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from calibzarr.collecting import archive, checkpoint
from calibzarr.errors import StoreError
from calibzarr.statistics.cached import CachedStatistics
from calibzarr.statistics.histogram import BINS, LogBins
from calibzarr.statistics.reduction import reduce
from calibzarr.statistics.running import Statistics
from calibzarr.storage import collected
from calibzarr.storage.manifest import read_root
from tests.support.stores import snapshot

MODEL = [4, 4, 4], [2]  # widths of its layers, and those of the caching pass


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
    read, of_cached = checkpoint.read(root, BINS, *MODEL)
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
    assert checkpoint.read(root, BINS, *MODEL) is None
    checkpoint.write(root.path, statistics, cached, collected.stamp(root))
    assert not checkpoint.exists(root, LogBins(mantissa_bits=5))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("bins", 5, "bins is 5, not dict"),
        ("began_with", [], "began_with is [], not str or NoneType"),
        ("steps", [0, 99], "steps is [0, 99], not different indices below 4"),
        ("steps", [0], "histogram is int64 of shape (3, 2, "),
        ("images", [1, 1], "images is [1, 1], not different indices below 7"),
        ("images", [1.0, 2], "images is [1.0, 2], not different indices"),
        ("cached_layers", {}, "cached_layers is {}, not list"),
        ("cached_layers", [1], "cached_layers is [1], not [2], as the model has"),
        ("cached_layers", [3], "cached_layers is [3], not different indices below 3"),
    ],
)
def test_a_header_that_does_not_fit_is_refused_by_its_field(
    root, statistics, cached, name, value, told
):
    checkpoint.write(root.path, statistics, cached, collected.stamp(root))
    file = root.path / checkpoint.FILE
    with np.load(file) as kept:
        arrays = dict(kept)
    header = json.loads(arrays.pop("header").tobytes())
    archive.write(file, {**header, name: value}, arrays)
    with pytest.raises(StoreError) as refused:
        checkpoint.read(root, BINS, *MODEL)
    assert str(refused.value).startswith(f"{file} is damaged: its {told}")
    assert f"collect({str(root.path)!r}, force=True)" in str(refused.value)


def test_a_damaged_one_stops_a_collection_until_it_starts_over(root, run):
    before = snapshot(root.path)
    file = root.path / checkpoint.FILE
    os.mkfifo(file)
    code, out, err = run("collect", root.path, "--images", "5:6")
    assert (code, out) == (1, "")
    assert f"{file} is damaged: its content is no regular file" in err
    assert f"calibzarr collect {root.path} --force" in err
    file.unlink()
    assert snapshot(root.path) == before

"""Collections, whole and in parts; with ``pytest --long`` they are killed at 40 moments, not 8."""

import json
import random
import re
import shutil
import signal

import numpy as np
import pytest
import xarray as xr

import calibzarr
from calibzarr.collecting import checkpoint, collector
from calibzarr.models import registry
from calibzarr.statistics.cached import CachedStatistics
from calibzarr.statistics.histogram import BINS, quantile
from calibzarr.statistics.running import Statistics
from calibzarr.storage import collected as statistics_store
from calibzarr.storage import commit, reading, schema, store
from calibzarr.storage.commit import update_attributes
from calibzarr.storage.manifest import read_root
from tests.support import children
from tests.support.stores import open_strictly, snapshot

STATISTICS = [variable.name for variable in schema.STATISTICS]
BUILT = {"num_images": 6, "num_steps": 3, "images": (0, 5)}
EVERYTHING = {variable.name for variable in schema.COLLECTED_VARIABLES}


pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture(scope="module")
def built(make_store):
    """A store of 6 images, 5 of them complete, without statistics."""
    return make_store(**BUILT)


@pytest.fixture
def path(built, tmp_path):
    path = tmp_path / "a.zarr"
    shutil.copytree(built, path)
    return path


@pytest.fixture(scope="module")
def collected(make_store):
    """The same store with statistics of all 5 images at all 4 steps."""
    return make_store(**BUILT, collect={"steps": "all"})


def assert_same_statistics(actual, expected):
    """Counts and extremes exactly, means to 1e-6 of the greatest of their layer and step."""
    first, second = open_strictly(actual), open_strictly(expected)
    for name in EVERYTHING:
        if "mean" in name or "std" in name:
            rest = [dim for dim in first[name].dims if dim not in ("layer", "step")]
            scale = np.abs(second[name]).max(rest)
            assert (np.abs(first[name] - second[name]) <= 1e-6 * scale).sum() == (
                second[name].notnull().sum()
            )
        else:
            np.testing.assert_array_equal(first[name], second[name])


def test_variables_stand_beside_the_latents_as_documented(collected):
    dataset = open_strictly(collected)
    assert set(dataset.variables) >= EVERYTHING
    assert {"latents", "decoded"} <= set(dataset.data_vars)
    for variable in schema.COLLECTED_VARIABLES:
        assert dataset[variable.name].dims == variable.dims
        assert (variable.name in dataset.coords) == variable.coordinate
        assert not hasattr(xr.Dataset, variable.name)
    assert dataset.collected.all()
    assert dataset.collected_image.values.tolist() == [True] * 5 + [False]
    assert (dataset.histogram.sum("bin") == dataset.value_count).all()
    assert (dataset.non_finite_count == 0).all()
    assert dataset.attrs["activations"]["steps"] == [0, 1, 2, 3]
    assert dataset.attrs["num_images"] == 6  # the manifest is still there


def test_one_layer_at_one_step_agrees_with_a_dump_to_the_last_count(collected, tiny):
    """All values that enter a layer at a step, over all images, by NumPy."""
    dataset = open_strictly(collected)
    layer, step = "mm_block_1.image.mlp.fc2", 2
    module = tiny.pipeline.mmdit.multimodal_transformer_blocks[1].image_transformer_block.mlp.fc2
    values, original = [], type(module).__call__

    def dump(self, x):
        if self is module:
            values.append(np.array(x))
        return original(self, x)

    schedule = tiny.schedule(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(module), "__call__", dump)
        for image in range(5):
            conditioning = tiny.encode([str(dataset.prompt.values[image])], 3.0)
            x = tiny.from_numpy(dataset.latents.values[[image], step])
            with tiny.denoiser(conditioning, schedule) as denoise:
                np.array(denoise(x, step))
    values = np.stack(values)  # image, guidance, token, 1, feature
    row = dataset.sel(layer=layer).isel(step=step)
    edges = np.append(row.bin_low.values, np.inf)
    low, middle = np.histogram(values[values < 0], edges)[0], len(edges) // 2
    np.testing.assert_array_equal(row.histogram[middle + 1 :], _positive(values, edges, middle))
    assert (
        int(row.histogram[:middle].sum() + row.histogram[middle])
        == low.sum() + ((values >= 0) & (values < edges[middle])).sum()
    )
    assert row.value_count == values.size
    assert row.value_min == values.min()
    assert row.value_max == values.max()
    np.testing.assert_allclose(row.value_mean, values.mean(dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(row.value_std, values.std(dtype=np.float64), rtol=1e-9)
    extremes = values.max(axis=(1, 2, 3))
    np.testing.assert_array_equal(row.feature_max[: values.shape[-1]], extremes.max(axis=0))
    np.testing.assert_allclose(
        row.feature_mean_max[: values.shape[-1]], extremes.mean(axis=0, dtype=float), rtol=1e-6
    )
    assert np.isnan(row.feature_max[values.shape[-1] :]).all()
    weight = np.array(module.weight)
    np.testing.assert_array_equal(
        row.weight_feature_max[: weight.shape[1]], np.abs(weight).max(axis=0)
    )
    assert int(row.weight_histogram.sum()) == weight.size
    fractions = [0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999]
    actual = quantile(row.histogram.values, row.bin_low, row.bin_high, fractions)
    np.testing.assert_allclose(actual, np.quantile(values, fractions), rtol=0.01, atol=2e-6)


def _positive(values, edges, middle):
    """Counts of the bins above the one around zero, whose lower edges belong to them."""
    return np.histogram(values[values > 0], edges)[0][middle + 1 :]


def test_quantiles_of_all_real_activations_agree_with_numpy(collected, tiny):
    dataset = open_strictly(collected)
    dumped = {}
    schedule = tiny.schedule(3)
    modules = {id(m): path for path, m in tiny.pipeline.mmdit.named_modules()}
    linear = type(tiny.pipeline.mmdit.context_embedder)
    call = linear.__call__

    def dump(self, x):
        if (path := modules.get(id(self))) is not None:
            dumped.setdefault(path, []).append(np.array(x).ravel())
        return call(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "__call__", dump)
        for image in range(5):
            conditioning = tiny.encode([str(dataset.prompt.values[image])], 3.0)
            with tiny.denoiser(conditioning, schedule, [1]) as denoise:
                np.array(denoise(tiny.from_numpy(dataset.latents.values[[image], 1]), 1))
    row = dataset.isel(step=1, layer=(dataset.role == "input").values)
    fractions = np.array([0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999])
    actual = quantile(row.histogram.values, row.bin_low, row.bin_high, fractions)
    for module, quantiles in zip(row.module.values, actual, strict=True):
        values = np.sort(np.concatenate(dumped[str(module)]).astype(np.float64))
        expected = np.quantile(values, fractions)
        # Between two neighbours of opposite sign the error is relative to the neighbours.
        position = fractions * (len(values) - 1)
        neighbours = np.abs(values[[np.floor(position).astype(int), np.ceil(position).astype(int)]])
        error = np.abs(quantiles - expected)
        assert (error <= 0.01 * neighbours.max(axis=0) + 2e-6).all(), module


@pytest.mark.slow
def test_more_images_replay_only_the_new_ones(path, collected, monkeypatch):
    calls = []
    replay = collector.observe_step

    def count(*args):
        calls.append((args[0].images, args[1]))
        replay(*args)

    monkeypatch.setattr(collector, "observe_step", count)
    calibzarr.collect(path, steps="all", num_images=2)
    assert len(calls) == 2 * 4
    first = {image for images, _ in calls for image in images}
    calls.clear()
    calibzarr.collect(path, steps="all", num_images=5)
    assert len(calls) == 3 * 4
    assert not first & {image for images, _ in calls for image in images}
    assert_same_statistics(path, collected)


@pytest.mark.slow
def test_other_steps_are_added_and_order_does_not_matter(path, collected):
    calibzarr.collect(path, steps=[3], images=(2, 4))
    calibzarr.collect(path, steps=[0, 2], images=(0, 2))
    dataset = open_strictly(path)
    assert dataset.collected.values.tolist() == [True, False, True, True]
    assert dataset.collected_image.values.tolist() == [True] * 4 + [False] * 2
    calibzarr.collect(path, steps="all", images=(4, 6))
    assert_same_statistics(path, collected)


@pytest.mark.slow
def test_batches_give_the_same_statistics(path, collected):
    calibzarr.collect(path, steps="all", batch_size=3)
    batched, single = open_strictly(path), open_strictly(collected)
    np.testing.assert_array_equal(batched.value_count, single.value_count)
    np.testing.assert_allclose(batched.value_max, single.value_max, rtol=1e-4)
    np.testing.assert_allclose(
        batched.feature_mean_max, single.feature_mean_max, rtol=1e-3, atol=1e-4
    )
    moved = np.abs(batched.histogram - single.histogram).sum() / single.histogram.sum()
    assert moved < 0.01  # values near an edge, by the last bits


def test_nothing_new_replays_nothing_and_loads_no_model(collected, monkeypatch):
    """And removes the checkpoint that a kill left after the collection was written."""
    monkeypatch.setattr(registry, "load", lambda name: pytest.fail("loaded a model"))
    before = snapshot(collected)
    for options in ({}, {"num_images": 2}, {"steps": [1], "images": (0, 3)}):
        left = Statistics.empty(BINS, 1, [0], [0], features=1)
        cached = CachedStatistics.empty(BINS, [], 1, [0], features=0)
        checkpoint.write(collected, left, cached, "a stamp of before")
        assert calibzarr.collect(collected, **options).num_images == 5
    assert snapshot(collected) == before


@pytest.mark.slow
def test_force_starts_over_and_keeps_the_old_until_the_new_is_complete(path, monkeypatch):
    calibzarr.collect(path, steps="all")
    before = open_strictly(path)
    during = []
    replay = collector.observe_step

    def look(*args):
        during.append(open_strictly(path).identical(before))
        replay(*args)

    monkeypatch.setattr(collector, "observe_step", look)
    result = calibzarr.collect(path, steps=[1], num_images=2, force=True)
    assert during == [True, True]
    after = open_strictly(path)
    assert (result.num_images, result.steps) == (2, (1,))
    assert after.collected.values.tolist() == [False, True, False, False]
    assert after.collected_image.sum() == 2


@pytest.mark.slow
def test_statistics_stay_when_the_store_grows(path, collected):
    calibzarr.collect(path, steps="all")
    calibzarr.build(path, num_images=8, resume=True)
    grown, before = open_strictly(path), open_strictly(collected)
    assert grown.sizes["image"] == 8
    np.testing.assert_array_equal(grown.histogram, before.histogram)
    np.testing.assert_array_equal(grown.image_max[..., :6], before.image_max)
    assert np.isnan(grown.image_max[..., 6:]).all()
    assert not grown.collected_image[6:].any()
    calibzarr.collect(path, steps="all")
    assert open_strictly(path).collected_image.all()


def test_disk_use_is_small(collected):
    sizes = reading.bytes_on_disk(collected)
    used = sum(sizes.get(name, 0) for name in EVERYTHING)
    dataset = open_strictly(collected)
    raw = 4 * int(dataset.value_count.sum())
    assert used < raw / 5  # of 5 small images; bench.py measures the real ratio


def test_stores_that_cannot_be_collected_are_refused_unchanged(path, tmp_path, tiny):
    empty = tmp_path / "empty.zarr"
    calibzarr.build(empty, num_images=2, num_steps=1, images=(0, 1))
    next(empty.glob("latents/c.*")).unlink()
    before = snapshot(empty)
    with pytest.raises(ValueError, match="no complete image to replay"):
        calibzarr.collect(empty)
    assert snapshot(empty) == before

    calibzarr.collect(path, steps=[1], num_images=1)
    other = {"min_exponent": -20, "max_exponent": 16, "mantissa_bits": 5}
    activations = read_root(path).attributes["activations"]
    update_attributes(path, {"activations": {**activations, "bins": other}})
    before = snapshot(path)
    with pytest.raises(ValueError, match=r"another grid, LogBins\(.*mantissa_bits=5\)"):
        calibzarr.collect(path, steps=[2])
    assert snapshot(path) == before
    calibzarr.collect(path, steps=[2], force=True)

    update_attributes(path, {"model_fingerprint": "0123"})
    before = snapshot(path)
    with pytest.raises(ValueError, match=f"fingerprint 0123, but tiny now has {tiny.fingerprint}"):
        calibzarr.collect(path, steps=[3])
    assert snapshot(path) == before


@pytest.mark.slow
def test_kill_between_any_two_moves_of_the_installation_leaves_no_mixture(path, monkeypatch):
    calibzarr.collect(path, steps=[1], num_images=2)
    old = open_strictly(path)
    with monkeypatch.context() as patch:
        patch.setattr(commit, "_apply", lambda *_: None)
        calibzarr.collect(path, steps=[1, 2], num_images=2, force=True)
    assert open_strictly(path).equals(old)
    move = commit._move

    class Killed(BaseException):
        """Nothing catches this: as if the process were gone."""

    for allowed in (0, 1, 7, 40):
        copy = shutil.copytree(path, path.parent / f"{allowed}.zarr")
        left = [allowed]

        def move_until_killed(source, target, left=left):
            if not left[0]:
                raise Killed
            left[0] -= 1
            move(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(commit, "_move", move_until_killed)
            with pytest.raises(Killed):
                commit.recover(copy)
        dataset = open_strictly(copy)
        assert EVERYTHING & set(dataset.variables) in (set(), EVERYTHING)
        assert ("activations" in dataset.attrs) == (set(dataset.variables) >= EVERYTHING)
        assert "latents" in dataset
        result = calibzarr.collect(copy, steps=[1, 2], num_images=2)  # goes on at once
        assert (result.steps, result.num_images) == ((1, 2), 2)
        new = open_strictly(copy)
        assert new.collected.values.tolist() == [False, True, True, False]
        np.testing.assert_array_equal(new.histogram[:, 1], old.histogram[:, 1])
        assert not (copy / "copies" / "next").exists()


@pytest.mark.slow
def test_interrupted_collection_goes_on_where_it_stopped(path, collected, monkeypatch):
    replay = collector.observe_step
    calls = []

    def interrupt(*args):
        calls.append(args[0].images)
        if len(calls) == 6:
            signal.raise_signal(signal.SIGINT)
        replay(*args)

    monkeypatch.setattr(collector, "observe_step", interrupt)
    result = calibzarr.collect(path, steps="all")
    assert result.interrupted
    assert result.num_images == 2  # the call in work was finished: the second image's second
    assert not EVERYTHING & set(open_strictly(path).variables)
    monkeypatch.setattr(collector, "observe_step", lambda *args: (calls.append(0), replay(*args)))
    calls.clear()
    assert not calibzarr.collect(path, steps="all").interrupted
    assert len(calls) == 5 * 4 - 6
    assert_same_statistics(path, collected)
    assert open_strictly(path).equals(open_strictly(collected))
    assert snapshot(path).keys() == snapshot(collected).keys()


def collect_with_checkpoints(path):
    """Collect with a checkpoint after each model call."""
    collector._CHECKPOINT_SECONDS = 0, 0
    calibzarr.collect(path, steps="all")


@pytest.mark.slow
def test_killed_collections_resume_to_the_same_statistics(built, tmp_path, kills):
    path, expected = tmp_path / "killed.zarr", tmp_path / "whole.zarr"
    shutil.copytree(built, path)
    calibzarr.build(path, num_images=kills // 2 + 2, resume=True)
    shutil.copytree(path, expected)
    calibzarr.collect(expected, steps="all")

    def collect(*signals):
        return children.run(
            *(collect_with_checkpoints, path),
            below=path,
            signals=dict.fromkeys(signals, signal.SIGKILL),
        )

    chance = random.Random(3)
    with_checkpoint = 0
    for moment in chance.choices(range(5), k=kills):
        assert collect(moment).killed
        with_checkpoint += (path / "collect.checkpoint").exists()
        assert not EVERYTHING & set(open_strictly(path).variables)
    assert with_checkpoint >= kills / 2
    children.make_leftovers_old(path)
    calibzarr.collect(path, steps="all")
    assert_same_statistics(path, expected)
    first, second = open_strictly(path), open_strictly(expected)
    assert first.drop_attrs().equals(second.drop_attrs())
    assert snapshot(path).keys() == snapshot(expected).keys()


@pytest.mark.slow
def test_a_kill_while_the_statistics_are_put_in_place(path, collected, kills, monkeypatch):
    """At any moment from the last replay on: the old, the new or none, never a mixture."""
    calibzarr.collect(path, steps=[1], num_images=3)
    old = open_strictly(path)
    with monkeypatch.context() as patch:  # all is replayed, and in the checkpoint
        patch.setattr(collector, "_CHECKPOINT_SECONDS", (0, 0))
        patch.setattr(statistics_store, "replace", lambda *arguments: pytest.fail("not yet"))
        with pytest.raises(pytest.fail.Exception, match="not yet"):
            calibzarr.collect(path, steps="all")

    def collect(copy, *signals):
        return children.run(
            *(children.command, "collect", copy, "--steps", "all"),
            below=copy,
            signals=dict.fromkeys(signals, signal.SIGKILL),
        )

    copies = [shutil.copytree(path, path.parent / f"{number}.zarr") for number in range(kills + 1)]
    whole = collect(copies.pop())
    assert whole.code == 0
    found = set()
    moments = [*np.linspace(0, whole.changes - 2, kills, dtype=int)]
    for moment, copy in zip(moments, copies, strict=True):
        assert collect(copy, moment).killed
        dataset = open_strictly(copy)
        present = EVERYTHING & set(dataset.variables)
        assert present in (set(), EVERYTHING)
        if present and dataset.collected.sum() == 1:
            assert dataset.equals(old)
            found.add("old")
        elif present:
            assert_same_statistics(copy, collected)
            found.add("new")
        else:
            found.add("none")
        calibzarr.collect(copy, steps="all")
        assert_same_statistics(copy, collected)
    assert found == {"old", "none", "new"}


def test_command_tells_what_it_does(run, path):
    code, out, err = run("collect", path, "--steps", "0,2", "--num-images", 9)
    assert code == 0, err
    assert "9 images were asked for, 5 are complete: taking those" in err
    assert "10 model calls on stored latents" in err
    assert "statistics of 67 layers from 5 images at 2 steps" in out
    code, out, err = run("collect", path, "--steps", "0")
    assert (code, "nothing new to observe" in err) == (0, True)
    code, out, err = run("info", path)
    assert code == 0
    assert re.search(r"67 layers, 5 images, steps 0, 2", out)
    code, out, err = run("info", path, "--json")
    assert code == 0
    assert json.loads(out)["collected"]["steps"] == [0, 2]
    for wrong, message in [
        (["--steps", "0,9"], "steps must be from 0 to 3, got 9"),
        (["--steps", "x"], "'x' is not key, all, or indices such as 0,25,50"),
        (["--images", "3"], "'3' is not a range"),
    ]:
        code, out, err = run("collect", path, *wrong)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1


def test_finishing_a_build_keeps_statistics_that_came_meanwhile(path, monkeypatch):
    group = store.open_group(path)  # what a builder may have opened before
    assert "activations" not in group.attrs
    completed = store.completed

    def collect_meanwhile(*args):
        monkeypatch.setattr(store, "completed", completed)
        calibzarr.collect(path, steps=[1], num_images=2)
        return completed(*args)

    monkeypatch.setattr(store, "completed", collect_meanwhile)
    store.finish(path)
    dataset = open_strictly(path)
    assert "activations" in dataset.attrs
    assert set(dataset.variables) >= EVERYTHING
    assert dataset.attrs["n_completed"] == 5


@pytest.mark.slow
def test_second_collection_at_the_same_time_is_refused(path, monkeypatch):
    refused = []
    replay = collector.observe_step

    def collect_again(*args):
        ended = children.run(children.command, "collect", path)
        refused.append((ended.code, ended.stderr.splitlines()[-1]))
        monkeypatch.setattr(collector, "observe_step", replay)
        replay(*args)

    monkeypatch.setattr(collector, "observe_step", collect_again)
    calibzarr.collect(path, steps=[1], num_images=1)
    ((code, message),) = refused
    assert code == 1
    assert "another collection is at work on" in message


@pytest.mark.slow
@pytest.mark.parametrize("staged", [False, True])
def test_store_that_grows_meanwhile_is_collected_all_the_same(path, collected, monkeypatch, staged):
    """While images are replayed, or between a kill and the installation."""
    replay = collector.observe_step

    def grow(*args):
        monkeypatch.setattr(collector, "observe_step", replay)
        calibzarr.build(path, num_images=8, resume=True, images=(0, 5))
        replay(*args)

    if staged:
        with monkeypatch.context() as patch:
            patch.setattr(commit, "_apply", lambda *_: None)
            calibzarr.collect(path, steps="all")
        assert not EVERYTHING & set(open_strictly(path).variables)
        calibzarr.build(path, num_images=8, resume=True, images=(0, 5))
    else:
        monkeypatch.setattr(collector, "observe_step", grow)
    calibzarr.collect(path, steps="all")
    grown, before = open_strictly(path), open_strictly(collected)
    assert grown.sizes["image"] == 8
    np.testing.assert_array_equal(grown.histogram, before.histogram)
    np.testing.assert_array_equal(grown.image_max[..., :6], before.image_max)
    assert not grown.collected_image[5:].any()


def test_interrupted_force_is_not_taken_for_the_old_statistics(path, monkeypatch):
    calibzarr.collect(path, steps=[0], images=(0, 2))
    replay, calls = collector.observe_step, []

    def interrupt(*args):
        calls.append(args)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        replay(*args)

    monkeypatch.setattr(collector, "observe_step", interrupt)
    assert calibzarr.collect(path, steps=[0], images=(2, 5), force=True).interrupted
    monkeypatch.setattr(collector, "observe_step", replay)
    calibzarr.collect(path, steps=[0], images=(2, 4))
    assert open_strictly(path).collected_image.values.tolist() == [0, 0, 1, 1, 0, 0]


def test_lost_prompts_are_not_replayed_as_empty_ones(path):
    (path / "prompt" / "c.0").unlink()
    with pytest.raises(ValueError, match="prompts or seeds are not those it was begun with"):
        calibzarr.collect(path)
    with pytest.raises(ValueError, match="prompts or seeds are not those it was begun with"):
        calibzarr.build(path, resume=True)

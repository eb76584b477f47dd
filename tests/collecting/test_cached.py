"""Layers of the caching pass are observed at every call, and all readers know of it."""

import shutil
import signal

import numpy as np
import pytest
import zarr

import calibzarr
from calibzarr.advice import analysis, observed, recommendation
from calibzarr.advice.evidence import gather
from calibzarr.advice.options import Options
from calibzarr.collecting import collector, sensitivity_plan
from calibzarr.collecting.replay import cached_layers
from calibzarr.errors import Call, StoreError
from calibzarr.integrity.repair import repair
from calibzarr.integrity.verification import verify
from calibzarr.quantization.clipping import clipping_range
from calibzarr.quantization.histograms import Histograms
from calibzarr.quantization.levels import BITS
from calibzarr.statistics.histogram import BINS
from calibzarr.storage import reading, schema, store
from calibzarr.storage.manifest import read_root
from tests.support.replaying import dump
from tests.support.stores import open_strictly, snapshot, without_index

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("loaded_once")]

NUM_STEPS, STEPS = 7, [2, 5, 7]
OTHERS = [0, 1, 3, 4, 6]  # calls
NAMED = ("t_embedder.mlp.fc2", "mm_block_1.image.adaLN_modulation", "final_layer.adaLN_modulation")


@pytest.fixture(scope="module")
def collected(make_store):
    """3 images of 7 calls, collected at 3 states, the final one among them."""
    return make_store(num_images=3, num_steps=NUM_STEPS, collect={"steps": STEPS})


@pytest.fixture
def path(collected, tmp_path):
    return shutil.copytree(collected, tmp_path / "a.zarr")


@pytest.fixture(scope="module")
def dumped(collected, tiny):
    """By layer, image and step, shape (guidance, token, feature)."""
    return dump(collected, tiny, NUM_STEPS, range(NUM_STEPS + 1))


@pytest.fixture(scope="module")
def cached(tiny):
    """Names of the layers of the caching pass that see the timestep."""
    return [tiny.layers()[index].name for index in cached_layers(tiny)]


def as_older(path):
    """Take out of a store what an older version would not have put in."""
    group = zarr.open_group(path)
    observed = group[schema.OBSERVED.name][:]
    others = np.flatnonzero(observed.any(axis=0) & ~group[schema.COLLECTED.name][:])
    for variable in schema.STATISTICS:
        for step in others.tolist():
            store.array(group, variable.name)[:, step] = (
                np.nan if variable.dtype.startswith("float") else 0
            )
    without_index(path, [schema.OBSERVED.name])


def test_the_layers_are_those_of_the_caching_pass(cached, tiny):
    kinds = {layer.name: layer.kind for layer in tiny.layers()}
    expected = {
        name
        for name, kind in kinds.items()
        if kind == "adaLN_modulation" or name.startswith("t_embedder")
    }
    assert set(cached) == expected
    facts = {layer.name: layer.cached for layer in tiny.layers()}
    assert {name for name, is_cached in facts.items() if is_cached} == expected | {
        name for name in facts if name.startswith("y_embedder")
    }


def test_where_a_layer_was_observed_is_told(collected, cached):
    dataset = open_strictly(collected)
    assert dataset.collected.values.nonzero()[0].tolist() == STEPS
    expected = np.zeros(dataset.observed.shape, bool)
    expected[:, STEPS] = True
    expected[np.isin(dataset.layer.values, cached), :NUM_STEPS] = True
    np.testing.assert_array_equal(dataset.observed, expected)
    np.testing.assert_array_equal(dataset.value_count > 0, expected)
    for variable in schema.STATISTICS:
        unknown = dataset[variable.name].values[~expected]
        assert (np.isnan(unknown) if unknown.dtype.kind == "f" else unknown == 0).all()


@pytest.mark.parametrize("layer", NAMED)
@pytest.mark.parametrize("step", [0, 3, 6])
def test_a_step_that_is_not_collected_agrees_with_numpy(collected, dumped, layer, step):
    row = open_strictly(collected).sel(layer=layer).isel(step=step)
    values = np.stack([dumped[layer][image, step] for image in range(3)])
    width = values.shape[-1]
    assert row.value_count == values.size
    np.testing.assert_array_equal(row.histogram, BINS.counts(values.ravel()))
    assert (row.value_min, row.value_max) == (values.min(), values.max())
    wide = values.astype(np.float64)
    np.testing.assert_allclose(row.value_mean, wide.mean(), rtol=1e-9)
    np.testing.assert_allclose(row.value_std, wide.std(), rtol=1e-6)
    np.testing.assert_array_equal(row.image_max, values.max(axis=(1, 2, 3)))
    np.testing.assert_allclose(row.image_mean, wide.mean(axis=(1, 2, 3)), rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(row.feature_min[:width], values.min(axis=(0, 1, 2)))
    lows = wide.min(axis=(1, 2)).mean(axis=0)
    np.testing.assert_allclose(row.feature_mean_min[:width], lows, rtol=1e-6)
    assert np.isnan(row.feature_min[width:]).all()


def test_the_same_as_where_all_steps_are_collected(collected, path, cached):
    calibzarr.collect(path, steps="all", force=True)
    whole, few = open_strictly(path), open_strictly(collected)
    assert whole.observed.all()
    for variable in schema.STATISTICS:
        first, second = (
            dataset[variable.name].sel(layer=cached).isel(step=slice(NUM_STEPS))
            for dataset in (whole, few)
        )
        np.testing.assert_array_equal(first, second)


def test_growth_by_images_and_steps_gives_the_whole(collected, path):
    calibzarr.collect(path, steps=[5], images=(1, 2), force=True)
    calibzarr.collect(path, steps=[2], images=(0, 2))
    calibzarr.collect(path, steps=[7], images=(0, 3))
    actual, expected = open_strictly(path), open_strictly(collected)
    for variable in schema.COLLECTED_VARIABLES:
        first, second = actual[variable.name], expected[variable.name]
        if "mean" in variable.name or "std" in variable.name:  # by way of sums
            np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("calls", [1, 3, 5])
def test_interrupted_at_any_call_it_ends_with_the_same_bits(collected, path, calls, monkeypatch):
    replay, made = collector.observe_step, []

    def interrupt(*args):
        made.append(args)
        if len(made) == calls:
            signal.raise_signal(signal.SIGINT)
        replay(*args)

    with monkeypatch.context() as patch:
        patch.setattr(collector, "observe_step", interrupt)
        assert calibzarr.collect(path, steps=STEPS, force=True).interrupted
    assert not calibzarr.collect(path, steps=STEPS).interrupted
    assert open_strictly(path).drop_attrs().equals(open_strictly(collected).drop_attrs())


def test_images_are_not_added_to_statistics_of_an_older_version(path):
    calibzarr.collect(path, steps=STEPS, images=(0, 2), force=True)
    as_older(path)
    assert not verify(path).findings
    before = snapshot(path)
    assert calibzarr.collect(path, steps=STEPS, num_images=2).num_images == 2  # nothing is new
    for options in ({"steps": STEPS}, {"steps": [3], "num_images": 2}):
        with pytest.raises(StoreError, match="an older version") as raised:
            calibzarr.collect(path, **options)
        assert Call("collect", (path,), {"force": True}) in raised.value.message.parts
    assert snapshot(path) == before
    statistics = reading.open_statistics(path)
    assert statistics.sizes["cached_step"] == 0
    activations = observed.activations(statistics)
    np.testing.assert_array_equal(activations.overall.counts, activations.counts.sum(axis=1))
    recommendation.recommend(path)
    assert not calibzarr.collect(path, steps=STEPS, force=True).interrupted
    assert schema.OBSERVED.name in read_root(path).arrays
    calibzarr.collect(path, steps=[3])


def test_ranges_over_all_steps_are_of_every_call(collected, dumped, cached):
    statistics = reading.open_statistics(collected)
    assert statistics.step.values.tolist() == STEPS
    assert statistics.cached_step.values.tolist() == OTHERS
    activations = observed.activations(statistics)
    assert activations.value_min.shape == (statistics.sizes["layer"], len(STEPS))
    analyzed = analysis.of_statistics(statistics, activations)
    for row, layer in enumerate(statistics.layer.values):
        known = sorted(OTHERS + STEPS) if layer in cached else STEPS
        values = {s: np.stack([dumped[layer][i, s] for i in range(3)]) for s in known}
        every = np.concatenate([array.ravel() for array in values.values()])
        whole = activations.overall
        np.testing.assert_array_equal(whole.counts[row], BINS.counts(every))
        assert (whole.value_min[row], whole.value_max[row]) == (every.min(), every.max())
        np.testing.assert_allclose(whole.mean[row], every.mean(dtype=float), atol=1e-6)
        np.testing.assert_allclose(whole.std[row], every.astype(float).std(), rtol=1e-5)
        assert analyzed.value_range[row] == float(every.max()) - float(every.min())


def test_the_key_steps_alone_would_miss_some_of_the_range(collected, cached):
    statistics = reading.open_statistics(collected).sel(layer=cached)
    activations = observed.activations(statistics)
    wider = activations.overall.value_max - activations.overall.value_min
    narrower = activations.value_max.max(axis=1) - activations.value_min.min(axis=1)
    assert (wider >= narrower).all()
    assert (wider > narrower).any()


def test_sensitivities_use_ranges_of_every_call(collected, dumped, cached):
    root = read_root(collected)
    low, high = sensitivity_plan._ranges(root, "mse")
    layers = reading.open_statistics(root).layer.values
    for row, layer in enumerate(layers):
        known = range(NUM_STEPS) if layer in cached else [2, 5]
        values = np.concatenate([dumped[layer][i, s].ravel() for i in range(3) for s in known])
        rows = Histograms.of_counts(
            BINS.counts(values)[None], BINS, values.min()[None], values.max()[None]
        )
        expected = clipping_range("mse", rows, BITS)
        np.testing.assert_allclose(low[row], expected[0][0], rtol=1e-5)
        np.testing.assert_allclose(high[row], expected[1][0], rtol=1e-5)


def test_sizes_are_values_of_a_call_whatever_was_observed(collected, dumped):
    statistics = reading.open_statistics(collected)
    activations, options = observed.activations(statistics), Options()
    ranges = clipping_range("lp", activations.overall, BITS)
    evidence = gather(statistics, activations, None, ranges, options)
    groups = statistics.input_group.values
    for row, layer in enumerate(statistics.layer.values):
        first = layer == groups[row] and evidence.linear[row] and not evidence.exception[row]
        of_call = dumped[layer][0, 2].size
        assert evidence.activations.size[row, 0] == (of_call if first else 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda group, row: group["value_count"].__setitem__((row, 3), 6), "as often at every"),
        (lambda group, row: group["observed"].__setitem__((row, 3), False), "some of the other"),
        (lambda group, row: group["observed"].__setitem__((row, 5), False), "that was collected"),
        (lambda group, row: group["value_max"].__setitem__((row, 3), 1e6), "outermost bins"),
        (lambda group, row: group["feature_max"].__setitem__((-1, 3, 0), 1), "not observed"),
        (lambda group, row: group["image_min"].__setitem__((row, 4, 1), -1e6), "as extremes"),
    ],
)
def test_wrong_values_at_other_calls_are_found(path, change, message):
    assert not verify(path).findings
    row = open_strictly(path).layer.values.tolist().index(NAMED[0])
    change(store.open_group(path, mode="r+"), row)
    assert [finding.check for finding in verify(path).findings] == ["files"]
    without_index(path)  # nothing but the values themselves tells then
    findings = [str(finding) for finding in verify(path).findings]
    assert any(message in finding for finding in findings), findings
    repair(path)
    assert not verify(path).findings
    assert schema.ACTIVATIONS not in read_root(path).attributes

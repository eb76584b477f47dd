import itertools
import shutil

import numpy as np
import pytest

import calibzarr
from calibzarr.collecting import measurement, sensitivity, sensitivity_plan
from calibzarr.collecting.sensitivity import probe_signs
from calibzarr.errors import StoreError
from calibzarr.models import registry
from calibzarr.quantization.quantizers import QUANTIZERS
from calibzarr.storage import schema
from calibzarr.storage.commit import update_attributes
from calibzarr.storage.manifest import read_root
from tests.support.stores import open_strictly, snapshot

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("loaded_once")]

NUM_STEPS = 4
SMALL = {"images": 2, "probes": 2, "steps": [0, 3]}
VARIABLES = [variable.name for variable in schema.SENSITIVITY_VARIABLES]


@pytest.fixture(scope="module")
def collected(tmp_path_factory, tiny):
    """A store of 4 images, 3 of them complete and collected at all states."""
    path = tmp_path_factory.mktemp("collected") / "a.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load", lambda name: tiny)
        calibzarr.build(path, num_images=4, num_steps=NUM_STEPS, images=(0, 3))
        calibzarr.collect(path, steps="all")
    return path


@pytest.fixture
def path(collected, tmp_path):
    path = tmp_path / "a.zarr"
    shutil.copytree(collected, path)
    return path


@pytest.fixture(scope="module")
def measured(collected, tmp_path_factory, tiny):
    """The same store with sensitivities."""
    path = tmp_path_factory.mktemp("measured") / "a.zarr"
    shutil.copytree(collected, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load", lambda name: tiny)
        sensitivity.sensitivity(path, **SMALL)
    return path


def assert_same(actual, expected):
    first, second = open_strictly(actual), open_strictly(expected)
    for name in VARIABLES:
        np.testing.assert_array_equal(first[name].values, second[name].values, err_msg=name)


def test_variables_stand_beside_the_others_as_documented(measured):
    dataset = open_strictly(measured)
    for variable in schema.SENSITIVITY_VARIABLES:
        assert dataset[variable.name].dims == variable.dims
        assert (variable.name in dataset.coords) == variable.coordinate
    assert dataset.sensitivity_step.values.tolist() == [0, 3]
    assert dataset.sensitivity_image.values.tolist() == [0, 1]
    assert dataset.quantizer.values.tolist() == [quantizer.name for quantizer in QUANTIZERS]
    for kind in ("activation", "weight"):
        of_kind = (dataset.quantizer_kind == kind).values
        values = dataset[f"{kind}_sensitivity"].values
        linear = (dataset.role == "input").values
        assert np.isnan(values[:, :, ~of_kind]).all()
        assert np.isnan(values[~linear]).all()
        assert (np.nan_to_num(values) >= 0).all()
        four, eight = (
            np.nansum(dataset[f"{kind}_sensitivity"].sel(quantizer=f"{kind}-tensor-{bits}"))
            for bits in (4, 8)
        )
        assert four > 20 * eight  # 16 times the step size: 256 times the energy, about
    assert np.isfinite(dataset.sensitivity_clip_max.sel(quantizer="activation-tensor-4")).all()
    assert (np.diff(dataset.amplification.values[:NUM_STEPS]) > 0).any()
    assert dataset.amplification.values[NUM_STEPS - 1] == 1
    assert np.isnan(dataset.amplification.values[NUM_STEPS])
    assert dataset.attrs["sensitivity"]["clip"] == "lp"


def test_sensitivities_derive_from_the_products_in_the_store(measured):
    dataset = open_strictly(measured)
    squares = np.square(dataset.signed_product.astype(float)).mean(["sensitivity_image", "probe"])
    expected = squares / dataset.output_power.mean("sensitivity_image")
    for kind in ("activation", "weight"):
        of_kind = (dataset.quantizer_kind == kind).values
        np.testing.assert_allclose(
            dataset[f"{kind}_sensitivity"].values[..., of_kind],
            expected.transpose("layer", "sensitivity_step", "quantizer").values[..., of_kind],
            rtol=1e-5,
        )


def test_an_interrupted_measurement_goes_on_to_the_same_bits(path, measured, monkeypatch):
    """Interrupted after every pass and every rollout, until it is done."""
    monkeypatch.setattr("calibzarr.long_run.LongRun.stops", stop_once(monkeypatch))
    outcomes = []
    while not outcomes or outcomes[-1].interrupted:
        outcomes.append(sensitivity.sensitivity(path, **SMALL))
    passes, rollouts = 2 * 2, 2 * len(sensitivity_plan.amplified_steps(NUM_STEPS))
    assert len(outcomes) == passes + rollouts
    assert_same(path, measured)
    assert snapshot(path).keys() == snapshot(measured).keys()


def stop_once(monkeypatch):
    """A user who asks to stop at the first occasion, but not at the last."""
    from calibzarr.collecting.measurement import Measurement

    found = []
    original = sensitivity._Session.__init__

    def begin(self, plan, model, run):
        found[:] = [plan.start]
        original(self, plan, model, run)

    monkeypatch.setattr(sensitivity._Session, "__init__", begin)

    def stops(self):
        self.interrupted = isinstance(found[0], Measurement) and not found[0].complete
        return self.interrupted

    return stops


@pytest.mark.parametrize("batch_size", [1, 2])
def test_measuring_more_equals_measuring_all_at_once(
    path, measured, collected, tmp_path, batch_size
):
    shutil.copytree(measured, tmp_path / "grown.zarr")
    more = {"images": 3, "probes": 3, "steps": [0, 3], "batch_size": batch_size}
    sensitivity.sensitivity(tmp_path / "grown.zarr", **more)
    grown, before = (
        open_strictly(which).signed_product for which in (tmp_path / "grown.zarr", measured)
    )
    assert grown.shape[3:] == (3, 3)
    images = grown.sensitivity_image.values.tolist()
    assert images[:2] == before.sensitivity_image.values.tolist()
    np.testing.assert_array_equal(grown.values[..., :2, :2], before.values)
    sensitivity.sensitivity(path, **more, force=True)
    whole = open_strictly(path).signed_product
    order = [whole.sensitivity_image.values.tolist().index(image) for image in images]
    expected = whole.values[..., order, :]
    scale = 1e-4 * np.nan_to_num(np.abs(expected)).max(axis=(3, 4), keepdims=True)
    known = ~np.isnan(expected)
    assert (np.abs(grown.values - expected) <= scale + 1e-12)[known].all()


def test_nothing_new_is_told_and_changes_nothing(measured, monkeypatch):
    """But removes the checkpoint that a kill left after the measurement was written."""
    before = snapshot(measured)
    attributes = read_root(measured).attributes
    left = measurement.read(measured, attributes["sensitivity"])
    measurement.write_checkpoint(measured, left, {"adds_to": None})
    monkeypatch.setattr(registry, "load", lambda name: pytest.fail("loads the model"))
    result = sensitivity.sensitivity(measured, **SMALL)
    assert (result.num_layers, result.num_images, result.num_probes) == (60, 2, 2)
    assert 0 < result.worst_error_db < 9
    assert snapshot(measured) == before


def test_what_was_measured_whole_before_a_kill_is_written(measured, tmp_path):
    path = shutil.copytree(measured, tmp_path / "a.zarr")
    options = {**SMALL, "probes": 3}
    plan = sensitivity_plan.plan(path, **options)
    values = plan.start.products
    values[..., 2] = values[..., 1]
    measurement.write_checkpoint(path, plan.start, plan.identity)
    assert sensitivity.sensitivity(path, **options).num_probes == 3
    np.testing.assert_array_equal(open_strictly(path).signed_product, values)
    assert not list(path.glob("*.checkpoint"))


def test_stores_that_cannot_be_measured_are_refused_unchanged(path, measured, tmp_path):
    bare = tmp_path / "bare.zarr"
    calibzarr.build(bare, num_images=1, num_steps=2)
    with pytest.raises(StoreError, match=r"no statistics.*calibzarr.collect\("):
        sensitivity.sensitivity(bare)
    for key in ("clip", "steps"):
        other = {"clip": {"clip": "mse"}, "steps": {"steps": [1]}}[key]
        before = snapshot(measured)
        with pytest.raises(StoreError, match=rf"with {key} .*force=True"):
            sensitivity.sensitivity(measured, **{**SMALL, **other})
        assert snapshot(measured) == before
    for shard in (path / "latents").glob("c.*"):
        shard.unlink()
    with pytest.raises(StoreError, match=r"is complete; build them again.*resume=True"):
        sensitivity.sensitivity(path)


def test_sensitivities_of_other_weights_are_refused(measured, tmp_path):
    path = tmp_path / "a.zarr"
    shutil.copytree(measured, path)
    about = dict(open_strictly(path).attrs["sensitivity"])
    update_attributes(path, {"sensitivity": {**about, "model_fingerprint": "another"}})
    with pytest.raises(StoreError, match="model_fingerprint 'another'"):
        sensitivity.sensitivity(path, **SMALL)


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_measurement_that_is_staged_is_put_in_its_place(path, measured, monkeypatch):
    about = open_strictly(measured).attrs["sensitivity"]
    with monkeypatch.context() as patch:
        patch.setattr("calibzarr.storage.commit._apply", interrupt)
        with pytest.raises(KeyboardInterrupt):
            measurement.write(path, measurement.read(measured, about), about)
    assert schema.SENSITIVITY not in open_strictly(path).attrs
    sensitivity_plan.plan(path, **SMALL)
    assert_same(path, measured)


def test_probes_are_signs_that_only_their_numbers_decide():
    shape = (4, 8, 8)
    seen = {}
    for image, step, probe in itertools.product(range(3), range(3), range(3)):
        signs = probe_signs(7, image, step, probe, shape)
        assert signs.dtype == np.float32
        assert set(np.unique(signs)) == {-1, 1}
        np.testing.assert_array_equal(signs, probe_signs(7, image, step, probe, shape))
        seen[image, step, probe] = signs.tobytes()
    assert len(set(seen.values())) == 3 * (1 + 3 * 2)  # probe 0 is shared by all steps
    assert seen[0, 0, 0] == seen[0, 2, 0]
    assert probe_signs(8, 0, 0, 0, shape).tobytes() != seen[0, 0, 0]

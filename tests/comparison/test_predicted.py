import json
import shutil

import numpy as np
import pytest

import calibzarr
from calibzarr.collecting import measured
from calibzarr.comparison.predicted import predicted, shares
from calibzarr.errors import Message
from calibzarr.export.comparison import json_bytes
from calibzarr.models import registry
from calibzarr.quantization.prediction import Prediction, predict
from calibzarr.storage.manifest import read_root
from tests.support.configurations import of_model


@pytest.fixture(scope="module")
def configuration(tiny):
    return of_model(tiny, weight=6)


@pytest.fixture(scope="module")
def stores(make_store, tiny, configuration, tmp_path_factory):
    """A reference with sensitivities of two images at all three calls, and a run of it."""
    folder = tmp_path_factory.mktemp("predicted")
    reference = folder / "a.zarr"
    collected = make_store(num_images=2, num_steps=3, collect={"steps": "all"})
    shutil.copytree(collected, reference)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load", lambda name: tiny)
        calibzarr.sensitivity(reference, images=2, probes=4, steps=[0, 1, 2])
        calibzarr.build(folder / "w6.zarr", reference=reference, quantized=configuration)
    return reference, folder / "w6.zarr"


@pytest.mark.slow
def test_what_was_predicted_stands_beside_what_was_measured(stores, configuration, loaded_once):
    comparison = calibzarr.compare(*stores)
    (run,) = comparison.runs
    expected = predict(measured.read(read_root(stores[0])), configuration)
    assert run.predicted.output_sqnr_db == expected.output_sqnr_db
    assert run.predicted.picture_psnr_db == expected.picture_psnr_db
    assert run.teacher_forced.output_sqnr.value == pytest.approx(expected.output_sqnr_db, abs=3)
    text = str(comparison)
    assert "  predicted" in text
    found = [share.share for share in run.predicted.shares]
    assert len(found) == 10
    assert found == sorted(found, reverse=True)
    first = run.predicted.shares[0]
    assert f"%  {first.layer} {first.kind}s, step {first.step}" in text
    (said,) = json.loads(json_bytes(comparison))["runs"]
    assert said["predicted"]["output_sqnr_db"] == expected.output_sqnr_db
    assert [share["share"] for share in said["predicted"]["shares"]] == found


@pytest.mark.slow
def test_shares_are_parts_of_what_is_left_in_pictures(stores, configuration):
    store = measured.read(read_root(stores[0]))
    prediction = predict(store, configuration)
    found = shares(store, prediction)
    assert found.sum() == pytest.approx(1)
    assert not found[0].any()  # activations are not quantized
    late = found.sum(axis=(0, 1))
    error = 10 ** (-prediction.by_step / 10) * store.step_power
    left = error * np.square(store.widths * np.sqrt(store.amplification))  # every call is measured
    np.testing.assert_allclose(late, left / left.sum())
    nothing = Prediction(np.full(len(late), np.inf), np.inf, np.zeros_like(prediction.shares))
    assert not shares(store, nothing).any()


@pytest.mark.slow
def test_without_sensitivities_or_a_run_there_is_no_prediction(stores, make_store):
    reference, run = map(read_root, stores)
    found = predicted(reference, reference)
    assert isinstance(found, Message)
    assert str(found) == "its model is not quantized"
    found = predicted(run, run)
    assert isinstance(found, Message)
    assert "has no sensitivities" in str(found)

"""Runs of a quantized model against their reference, in 32 and in 16 bits."""

import shutil

import numpy as np
import pytest
import xarray as xr

import calibzarr
from calibzarr.collecting.sensitivity_plan import default_steps
from calibzarr.errors import StoreError
from calibzarr.models import registry
from calibzarr.storage.commit import update_attributes
from tests.support.configurations import of_model

NUM_STEPS = 3


@pytest.fixture(scope="module")
def configuration(tiny):
    return of_model(tiny, weight=4)


@pytest.fixture(scope="module", params=["float32", "float16"])
def stores(request, make_store, tiny, configuration, tmp_path_factory):
    """A reference and a run of it."""
    reference = make_store(num_images=2, num_steps=NUM_STEPS, latent_dtype=request.param)
    path = tmp_path_factory.mktemp("run") / "w4.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load", lambda name: tiny)
        calibzarr.build(path, reference=reference, quantized=configuration)
    return reference, path


def output(model, dataset, step):
    """The guided output at the stored states of a step, (image, channel, height, width)."""
    schedule = model.schedule(NUM_STEPS)
    found = []
    for state, prompt in zip(dataset.latents.values[:, step], dataset.prompt.values, strict=True):
        conditioning = model.encode([str(prompt)], 3.0)
        with model.denoiser(conditioning, schedule, [step]) as denoise:
            denoised = model.to_numpy(denoise(model.from_numpy(state[None]), step))[0]
        found.append((state.astype(float) - denoised) / schedule.sigma[step])
    return np.stack(found)


@pytest.mark.slow
def test_what_the_model_itself_loses(stores, tiny, configuration, loaded_once):
    (run,) = calibzarr.compare(*stores).runs
    forced = run.teacher_forced
    reference, quantized = xr.open_zarr(stores[0]).load(), tiny.quantized(configuration)
    assert tuple(forced.by_step.step) == default_steps(NUM_STEPS)
    for position, step in enumerate(forced.by_step.step.tolist()):
        exact, found = (output(model, reference, step) for model in (tiny, quantized))
        expected = np.square(found - exact).sum() / np.square(exact).sum()
        assert forced.by_step.relative_error[position] == pytest.approx(expected, rel=1e-3)
    assert forced.output_sqnr.value == pytest.approx(forced.by_step.sqnr_db.mean())
    assert np.isinf(run.states.sqnr_db[0])  # the same noise
    assert np.isfinite(run.states.sqnr_db[1:]).all()


@pytest.mark.slow
def test_a_run_of_another_reference_is_refused(stores, tmp_path):
    path = tmp_path / "other.zarr"
    shutil.copytree(stores[1], path)
    said = xr.open_zarr(path).attrs["reference"]
    update_attributes(path, {"reference": {**said, "fingerprint": "0" * 64}})
    with pytest.raises(StoreError, match=r"of another reference, .* with fingerprint 0+;"):
        calibzarr.compare(stores[0], path)


@pytest.mark.slow
def test_weights_that_are_gone_are_why_nothing_is_known(stores, tiny, tmp_path, loaded_once):
    path = tmp_path / "other.zarr"
    shutil.copytree(stores[1], path)
    update_attributes(path, {"model_fingerprint": "0" * 32})
    (run,) = calibzarr.compare(stores[0], path).runs
    assert run.teacher_forced is None
    assert "weights of fingerprint 0000" in str(run.skipped["teacher_forced"])
    assert run.pictures.psnr.value > 0

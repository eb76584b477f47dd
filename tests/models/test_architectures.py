"""Each architecture, small and in the original key names, through every step of the work."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import calibzarr
from calibzarr.errors import OptionError
from calibzarr.models import builtin
from calibzarr.storage.manifest import read_root
from tests.support import checkpoints

HUB = Path(os.environ["HF_HUB_CACHE"])
NUM_STEPS, IMAGE_SIZE = 2, 32
PROMPTS = (
    "“A red circle” — 7 cats, naïve",
    "Ένας κόκκινος κύκλος",
    "Красный круг",
    "עיגול אדום",
    "دائرة حمراء",
    "एक लाल वृत्त",
    "วงกลมสีแดง",
    "赤い円、青い四角",
    "红色的圆圈",
    "빨간 원 🔴",
)
OTHER_GUIDANCE = 2.5


@pytest.fixture(scope="module", params=checkpoints.MMDIT_CONFIGS)
def stores(request, tmp_path_factory):
    """A model's name, a store of it with all measurements, and a run of a checkpoint from that."""
    directory = tmp_path_factory.mktemp("architecture")
    prompts, store, checkpoint, run = (directory / name for name in ("p.txt", "a", "q", "b"))
    prompts.write_text("\n".join(PROMPTS), encoding="utf-8")
    checkpoints.write(request.param, HUB)
    with pytest.MonkeyPatch.context() as monkeypatch:
        checkpoints.use_small_sizes(monkeypatch)
        calibzarr.build(
            store,
            model=request.param,
            prompts=prompts,
            num_steps=NUM_STEPS,
            image_size=IMAGE_SIZE,
        )
        calibzarr.collect(store, num_images=1)
        calibzarr.sensitivity(store, images=1, probes=1, steps=[0])
        calibzarr.quantize(store, checkpoint, bits_per_weight=6.0, images=1, rounding="nearest")
        calibzarr.build(run, reference=store, quantized=checkpoint)
        yield request.param, store, run
    shutil.rmtree(HUB)


@pytest.mark.slow
def test_prompts_of_ten_scripts_go_through_every_step(stores):
    name, store, run = stores
    with xr.open_zarr(store, chunks=None) as dataset:
        assert tuple(dataset.prompt.values) == PROMPTS
        assert dataset.attrs["model"] == name
        assert dataset.attrs["activation_dtype"] == ("bfloat16" if "flux" in name else "float16")
        assert np.isfinite(dataset.latents.values).all()
        # What makes the prompts' pictures differ is the text: their noise does, by seed.
        assert len(np.unique(dataset.decoded.values.reshape(len(PROMPTS), -1), axis=0)) == 10
        assert dataset.attrs.get("guidance") == (3.5 if name == "flux-dev" else None)
        observed = [str(layer) for layer in dataset.layer.values]
    guided = [layer for layer in observed if layer.startswith("guidance_in")]
    assert guided == ["guidance_in.mlp.fc1", "guidance_in.mlp.fc2"] * (name == "flux-dev")
    assert calibzarr.verify(store).ok
    comparison = calibzarr.compare(store, run)
    assert comparison.images == tuple(range(len(PROMPTS)))
    with xr.open_zarr(run, chunks=None) as quantized, xr.open_zarr(store, chunks=None) as plain:
        errors = quantized.latents.values[:, -1] - plain.latents.values[:, -1]
        power = np.square(plain.latents.values[:, -1]).mean()
    assert 10 < 10 * np.log10(power / np.square(errors).mean()) < 60  # six bits, not none, not all


@pytest.mark.slow
def test_a_guidance_decides_what_a_store_is(stores, tmp_path):
    name, store, *_ = stores
    guidance = builtin.MODELS[name].guidance
    with pytest.raises(OptionError, match=f"begun with guidance {guidance}, .* go on with 2.5"):
        calibzarr.build(store, resume=True, guidance=OTHER_GUIDANCE)
    if guidance is None:
        return
    prompts = tmp_path / "p.txt"
    prompts.write_text(PROMPTS[0], encoding="utf-8")
    other = tmp_path / "other.zarr"
    calibzarr.build(
        other,
        model=name,
        prompts=prompts,
        num_steps=NUM_STEPS,
        image_size=IMAGE_SIZE,
        guidance=OTHER_GUIDANCE,
    )
    assert read_root(other).attributes["guidance"] == OTHER_GUIDANCE
    with xr.open_zarr(other, chunks=None) as told, xr.open_zarr(store, chunks=None) as plain:
        np.testing.assert_array_equal(told.latents[0, 0], plain.latents[0, 0])
        assert (told.latents[0, 1] != plain.latents[0, 1]).any()

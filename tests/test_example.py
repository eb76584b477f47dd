import sys

import numpy as np
import pytest
import xarray as xr

import calibzarr
from calibzarr.prompts.shapes import scenes
from calibzarr.statistics.steps import key_steps
from calibzarr.storage.manifest import read_root
from tests.support.files import EXAMPLE, ROOT

sys.path.insert(0, str(ROOT / "scripts"))

from training import check


@pytest.fixture(scope="module")
def example():
    return xr.open_zarr(EXAMPLE).load()


@pytest.fixture(scope="module")
def fresh(make_store, example):
    """The same store, built and collected today."""
    made_with, collected = example.attrs, example.attrs["activations"]
    path = make_store(
        **{
            name: made_with[name]
            for name in ("num_images", "num_steps", "cfg_weight", "seed", "batch_size")
        },
        collect={name: collected[name] for name in ("num_images", "steps", "batch_size")},
    )
    return xr.open_zarr(path).load()


def test_it_is_small_enough_to_be_in_the_repository():
    files = [file for file in EXAMPLE.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 4e6
    assert not [folder for folder in EXAMPLE.rglob("*") if folder.is_dir() and not any(
        folder.iterdir())]  # git keeps no empty directory  # fmt: skip


def test_it_holds_what_is_said_of_it(example):
    assert dict(example.sizes)["image"] == 4
    assert dict(example.sizes)["step"] == 51
    assert example.complete.all()
    assert example.collected_image.all()
    steps = np.flatnonzero(example.collected)
    assert list(steps) == example.attrs["activations"]["steps"]
    assert set(steps) <= set(key_steps(50))
    assert {0, 50} <= set(steps)
    assert read_root(EXAMPLE).indexed
    assert dict(example.signed_product.sizes)["sensitivity_step"] == 6
    assert np.isfinite(example.amplification[:-1]).all()


@pytest.mark.slow
def test_every_reader_gives_the_same(example):
    opened = calibzarr.open_store(EXAMPLE)
    numbered = opened.load().drop_vars(["image", "step"])  # which plain xarray does not have
    xr.testing.assert_equal(numbered, example)
    advice = calibzarr.analyze(EXAMPLE)
    assert list(advice.layer.values) == list(example.layer.values)


def test_verify_finds_nothing(run):
    code, output, _ = run("verify", EXAMPLE)
    assert code == 0
    assert "nothing is wrong" in output


def test_pictures_show_what_their_captions_say(example):
    by_caption = {scene.caption: scene for scene in scenes()}
    for prompt, picture in zip(example.prompt.values, example.decoded.values, strict=True):
        assert check.look(picture).scene == by_caption[prompt]


@pytest.mark.slow
def test_its_states_and_pictures_are_those_of_a_fresh_build(example, fresh):
    for name in ("prompt", "seed", "sigma", "timestep", "final"):
        np.testing.assert_array_equal(fresh[name], example[name])
    same = ("model_fingerprint", "prompts_sha256", "sampler", "image_size", "latent_dtype")
    assert [fresh.attrs[name] for name in same] == [example.attrs[name] for name in same]
    np.testing.assert_allclose(fresh.latents, example.latents, rtol=0, atol=2e-5)
    difference = np.abs(fresh.decoded.values.astype(int) - example.decoded.values)
    assert (difference <= 1).mean() > 0.999


@pytest.mark.slow
def test_its_statistics_are_those_of_a_fresh_collection(example, fresh):
    np.testing.assert_array_equal(fresh.collected, example.collected)
    np.testing.assert_array_equal(fresh.observed, example.observed)
    fresh, example = (of.isel(step=example.collected.values) for of in (fresh, example))
    for name in ("layer", "module", "kind", "bin_low", "value_count"):
        np.testing.assert_array_equal(fresh[name], example[name])
    widths = (example.value_max - example.value_min).values
    for name in ("value_min", "value_max"):
        difference = np.abs(fresh[name] - example[name]).values
        assert (difference <= 1e-3 * widths).all()
    totals = example.histogram.sum("bin")
    np.testing.assert_array_equal(fresh.histogram.sum("bin"), totals)
    moved = np.abs(fresh.histogram - example.histogram).sum("bin") / 2
    assert (moved <= 0.01 * totals).all()
    np.testing.assert_array_equal(fresh.weight_histogram, example.weight_histogram)

"""Builds, whole and in parts; with ``pytest --long`` they are killed at 40 moments, not 8."""

import errno
import os
import random
import shutil
import signal
import warnings

import numpy as np
import pytest
import xarray as xr

import calibzarr
from calibzarr import memory
from calibzarr.errors import OptionError, StoreError
from calibzarr.models import registry
from calibzarr.prompts.lists import shape_captions
from calibzarr.sampling import builder
from calibzarr.sampling.sampler import euler_states
from calibzarr.storage import durable, store
from calibzarr.storage.commit import update_attributes
from calibzarr.storage.manifest import read_root
from tests.support import children
from tests.support.configurations import of_model
from tests.support.stores import open_strictly, snapshot

SMALL = {"num_images": 4, "num_steps": 3}


pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture(scope="module")
def whole(make_store):
    """An uninterrupted build of 4 images."""
    return make_store(**SMALL)


def assert_same_dataset(actual, expected):
    """Same values in every array and attribute, and the same files: nothing left over."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (xr.open_zarr(path).load() for path in (actual, expected))
    created = dict.fromkeys(("created", "history", "integrity"))  # all say when it was made
    xr.testing.assert_identical(first.assign_attrs(created), second.assign_attrs(created))
    assert snapshot(actual).keys() == snapshot(expected).keys()


def test_store_holds_what_the_sampler_gives(whole, tiny):
    dataset = calibzarr.open_store(whole)
    captions = shape_captions().prompts
    assert dataset.prompt.values.tolist() == list(captions[:4])
    assert dataset.seed.values.tolist() == [0, 1, 2, 3]
    schedule = tiny.schedule(3)
    np.testing.assert_array_equal(dataset.sigma, schedule.sigma)
    np.testing.assert_array_equal(dataset.timestep, schedule.timestep)
    assert dataset.final.values.tolist() == [False, False, False, True]
    for image in (0, 3):
        conditioning = tiny.encode([captions[image]], 3.0)
        states = euler_states(tiny, conditioning, schedule, [image], 64)
        expected = np.concatenate([tiny.to_numpy(state) for state in states])
        np.testing.assert_array_equal(dataset.latents[image], expected)
        np.testing.assert_array_equal(dataset.decoded[image], tiny.decode(expected[-1]))
    assert dataset.attrs["n_completed"] == dataset.attrs["num_images"] == 4


def test_float16_stores_the_same_states_rounded(whole, tmp_path):
    calibzarr.build(tmp_path / "half.zarr", latent_dtype="float16", **SMALL)
    half, full = calibzarr.open_store(tmp_path / "half.zarr"), calibzarr.open_store(whole)
    assert half.latents.dtype == np.float16
    np.testing.assert_array_equal(half.latents, full.latents.astype(np.float16))
    np.testing.assert_array_equal(half.decoded, full.decoded)


def test_an_image_is_the_same_in_a_fresh_process(whole, tmp_path):
    path = tmp_path / "fresh.zarr"
    options = ["--num-images", 4, "--num-steps", 3, "--images", "2:3"]
    assert children.run(children.command, "build", path, *options).code == 0
    fresh, built = calibzarr.open_store(path), calibzarr.open_store(whole)
    assert fresh.complete.values.tolist() == [False, False, True, False]
    np.testing.assert_array_equal(fresh.latents[2], built.latents[2])
    np.testing.assert_array_equal(fresh.decoded[2], built.decoded[2])


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3])
def test_resumed_build_equals_an_uninterrupted_one(tmp_path, batch_size):
    options = {"num_images": 5, "num_steps": 2, "batch_size": batch_size}
    calibzarr.build(tmp_path / "whole.zarr", **options)
    path = tmp_path / "parts.zarr"
    calibzarr.build(path, images=(1, 2), **options)
    result = calibzarr.build(path, images=(3, 5), resume=True)
    assert (result.built, result.n_completed) == (2, 3)
    assert not xr.open_zarr(path).complete.any()
    result = calibzarr.build(path, resume=True)
    assert (result.built, result.n_completed, result.interrupted) == (2, 5, False)
    assert_same_dataset(path, tmp_path / "whole.zarr")


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3])
def test_grown_store_equals_one_built_at_once(tmp_path, batch_size):
    options = {"num_steps": 2, "batch_size": batch_size}
    calibzarr.build(tmp_path / "whole.zarr", num_images=6, **options)
    path = tmp_path / "grown.zarr"
    calibzarr.build(path, num_images=3, **options)
    shards = {k: v for k, v in snapshot(path).items() if k.startswith(("latents/c", "decoded/c"))}
    result = calibzarr.build(path, num_images=6, resume=True)
    assert result.built == 3
    assert shards.items() <= snapshot(path).items()
    assert_same_dataset(path, tmp_path / "whole.zarr")


def test_a_batch_is_cut_to_the_images(whole, tmp_path):
    path, options = tmp_path / "a.zarr", {**SMALL, "batch_size": 10**5}
    calibzarr.build(path, images=(0, 1), **options)
    assert read_root(path).attributes["batch_size"] == 4
    assert calibzarr.build(path, resume=True, **options).n_completed == 4
    with pytest.raises(OptionError, match="was begun with batch_size 4, and cannot go on with 3"):
        calibzarr.build(path, resume=True, batch_size=3)


def test_a_batch_that_does_not_fit_the_memory_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10**7)
    with pytest.raises(OptionError, match=r"takes about .* and 10\.0 MB are free; use 1 or less"):
        calibzarr.build(tmp_path / "a.zarr", num_images=90, num_steps=2, batch_size=80)
    assert list(tmp_path.iterdir()) == []


def test_batches_agree_with_single_images(whole, tmp_path):
    calibzarr.build(tmp_path / "batched.zarr", batch_size=2, **SMALL)
    batched, single = calibzarr.open_store(tmp_path / "batched.zarr"), calibzarr.open_store(whole)
    np.testing.assert_allclose(batched.latents, single.latents, rtol=0, atol=2e-5)


def test_resume_with_nothing_to_do_loads_no_model(whole, monkeypatch):
    monkeypatch.setattr(registry, "load", lambda name: pytest.fail("loaded a model"))
    before = snapshot(whole)
    assert calibzarr.build(whole, resume=True, **SMALL).built == 0
    assert snapshot(whole) == before


def test_existing_store_is_never_touched_without_resume(whole):
    before = snapshot(whole)
    with pytest.raises(OptionError, match="exists already; go on with it by resume=True, or"):
        calibzarr.build(whole, **SMALL)
    assert snapshot(whole) == before


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("model", "sd3-medium", "tiny"),
        ("num_steps", 4, 3),
        ("cfg_weight", 2.0, 3.0),
        ("image_size", 32, 64),
        ("latent_dtype", "float16", "float32"),
        ("batch_size", 2, 1),
        ("seed", 9, 0),
        ("num_images", 3, 4),
    ],
)
def test_resume_refuses_what_would_make_other_states(whole, name, value, stored):
    before = snapshot(whole)
    with pytest.raises(OptionError) as error:
        calibzarr.build(whole, resume=True, **{name: value})
    for part in (name.removeprefix("latent_"), repr(value), repr(stored)):
        assert part in str(error.value)
    assert snapshot(whole) == before


def test_resume_refuses_other_prompts_and_seeds(tmp_path):
    prompts = tmp_path / "p.csv"
    prompts.write_text("prompt,seed\na cat,5\na dog,6\n")
    path = tmp_path / "a.zarr"
    calibzarr.build(path, prompts=prompts, num_steps=1, images=(0, 1))
    before = snapshot(path)
    prompts.write_text("prompt,seed\na cat,5\na cow,6\n")
    with pytest.raises(OptionError, match=r"prompt 'a dog' for image 1, .* with 'a cow'"):
        calibzarr.build(path, prompts=prompts, resume=True)
    prompts.write_text("prompt,seed\na cat,5\na dog,7\n")
    with pytest.raises(OptionError, match=r"seed 6 for image 1, .* with 7"):
        calibzarr.build(path, prompts=prompts, resume=True)
    assert snapshot(path) == before
    assert calibzarr.build(path, resume=True).n_completed == 2  # the store knows its prompts
    with pytest.raises(
        OptionError, match="has prompts for 2 images; for 3 give prompts with the longer"
    ):
        calibzarr.build(path, num_images=3, resume=True)


def test_resume_refuses_changed_weights(tmp_path, tiny):
    path = tmp_path / "a.zarr"
    calibzarr.build(path, images=(0, 1), **SMALL)
    update_attributes(path, {"model_fingerprint": "0123"})
    before = snapshot(path)
    with pytest.raises(OptionError, match=f"model_fingerprint '0123', .*'{tiny.fingerprint}'"):
        calibzarr.build(path, resume=True)
    assert snapshot(path) == before


@pytest.mark.parametrize("full", ["decoded/c.2.0.0.0", "latents/c.2.0.0.0.0"])
def test_full_disk_keeps_what_is_complete(whole, tmp_path, monkeypatch, full):
    path = tmp_path / "a.zarr"
    new_file = durable.new_file

    def new_file_until_full(file):
        if str(file).endswith(full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return new_file(file)

    monkeypatch.setattr(durable, "new_file", new_file_until_full)
    with pytest.raises(OSError, match=r"full: 2 of 4 images are complete and stay; .*resume=True"):
        calibzarr.build(path, **SMALL)
    monkeypatch.setattr(durable, "new_file", new_file)
    assert calibzarr.open_store(path).complete.values.tolist() == [True, True, False, False]
    calibzarr.build(path, resume=True)
    assert_same_dataset(path, whole)


def test_two_builders_at_once_give_the_same_as_one(whole, tmp_path):
    path = tmp_path / "shared.zarr"
    options = ["--num-images", 4, "--num-steps", 3, "--resume"]  # whoever is first creates it
    with (
        children.running(children.command, "build", path, *options, "--images", "0:2") as first,
        children.running(children.command, "build", path, *options, "--images", "2:4") as second,
    ):
        for ended in (first(), second()):
            assert ended.code == 0, ended.stderr
    assert_same_dataset(path, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_first_interrupt_completes_the_images_in_work(tmp_path, number):
    path = tmp_path / "a.zarr"
    options = ["--num-images", 40, "--num-steps", 4, "--batch-size", 2]
    ended = children.run(
        *(children.command, "build", path, *options),
        below=path / "latents",
        signals={1: number},  # the first image of the batch is about to be complete
    )
    assert ended.code == 128 + number
    assert "Ctrl-C again to stop now" in ended.stderr
    complete = int(store.completed(path, 40).sum())
    assert complete % 2 == 0
    assert 2 <= complete < 40
    assert f"{complete} of 40 images are complete" in ended.stdout
    assert f"go on with: calibzarr build {path} --resume" in ended.stdout


def test_stores_that_do_not_name_their_formulas_are_resumed(tmp_path, loaded_once):
    path = tmp_path / "a.zarr"
    calibzarr.build(path, num_images=2, num_steps=1, image_size=16, images=(0, 1))
    manifest = read_root(path).attributes
    assert manifest["noise"] == "numpy.random.RandomState"
    assert manifest["schedule"] == "diffusionkit.sd3(shift=3.0)"
    update_attributes(path, {"noise": None, "schedule": None})
    assert calibzarr.build(path, resume=True).n_completed == 2
    assert "noise" not in read_root(path).attributes
    update_attributes(path, {"schedule": "another"})
    with pytest.raises(OptionError, match="was begun with schedule 'another'"):
        calibzarr.build(path, resume=True, num_images=3)


def test_resume_refuses_other_tokens(tmp_path, tiny):
    path = tmp_path / "a.zarr"
    options = {"num_steps": 1, "image_size": 16}
    calibzarr.build(path, num_images=2, images=(0, 1), **options)
    said = read_root(path).attributes["tokens_sha256"]
    update_attributes(path, {"tokens_sha256": None})  # as the first stores are
    assert calibzarr.build(path, num_images=3, images=(0, 1), resume=True).num_images == 3
    grown = read_root(path).attributes["tokens_sha256"]
    assert grown not in (None, said)
    update_attributes(path, {"tokens_sha256": "0123"})
    before = snapshot(path)
    for work in (
        lambda: calibzarr.build(path, resume=True),
        lambda: calibzarr.build(path, resume=True, num_images=9),
        lambda: calibzarr.collect(path),
        lambda: calibzarr.build(tmp_path / "b.zarr", reference=path, quantized=of_model(tiny)),
    ):
        with pytest.raises(StoreError, match="0123, whose tokens were others"):
            work()
    assert snapshot(path) == before


def test_prompts_that_are_cut_or_repeated_are_named_once(tmp_path, run, caplog):
    prompts = tmp_path / "prompts.csv"
    table = f"Prompt,SEED\n# a,4\n{'漢字 ' * 20},5\n# a,4\n"
    prompts.write_text(table, encoding="utf-8")
    options = ("--prompts", prompts, "--num-steps", 1, "--image-size", 16)
    code, _, err = run("build", tmp_path / "a.zarr", *options)
    assert code == 0
    (note,) = [line for line in err.splitlines() if "is cut for" in line]
    assert note.startswith("note: the prompt of image 1 is cut for clip_l, clip_g, which lose ")
    assert "'漢字 漢字 漢字 漢字 漢字 漢字'" in note
    assert "exceeds" not in err + caplog.text
    assert f"note: {prompts}, line 2: begins with #" in err
    assert "note: image 2 has the prompt and the seed of image 0" in err


def test_second_interrupt_stops_now(tmp_path, run, monkeypatch):
    path, steps = tmp_path / "a.zarr", []

    def interrupted(*arguments):
        for step, state in enumerate(euler_states(*arguments)):
            if step in (2, 5):
                signal.raise_signal(signal.SIGINT)
            steps.append(step)
            yield state

    monkeypatch.setattr(builder, "euler_states", interrupted)
    options = ["--num-images", 9, "--num-steps", 10, "--image-size", 16]
    code, stdout, stderr = run("build", path, *options)
    assert code == 130, stderr
    assert steps == [0, 1, 2, 3, 4]  # of the first image
    assert "Ctrl-C again to stop now" in stderr
    assert "0 of 9 images are complete" in stdout
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_killed_builds_resume_to_the_same_store(tmp_path, kills):
    images = 3 * kills
    options = ["--num-images", images, "--num-steps", 1, "--image-size", 32]
    calibzarr.build(tmp_path / "whole.zarr", num_images=images, num_steps=1, image_size=32)
    path = tmp_path / "killed" / "a.zarr"
    path.parent.mkdir()

    def build(*moments, below=None):
        return children.run(
            *(children.command, "build", path, *options, "--resume"),
            below=below or path,  # which is not there until the store is whole
            signals=dict.fromkeys(moments, signal.SIGKILL),
        )

    assert build(30, below=path.parent).killed  # while it is created
    assert not path.exists()
    children.make_leftovers_old(path.parent)
    between_images = 0
    for moment in [12, *random.Random(7).choices(range(20), k=kills - 3)]:
        assert build(moment).killed
        children.make_leftovers_old(path.parent)
        complete = store.completed(path, images)
        between_images += 0 < complete.sum() < images
        dataset = open_strictly(path)
        for image in complete.nonzero()[0]:
            assert np.isfinite(dataset.latents[image]).all()
            assert (dataset.decoded[image] > 0).any()
    assert between_images >= kills / 2
    shutil.copytree(path, tmp_path / "copy" / "a.zarr")
    path, killed = tmp_path / "copy" / "a.zarr", path
    changes = build().changes
    assert_same_dataset(path, tmp_path / "whole.zarr")
    path = killed
    assert build(changes - 4).killed  # when all images are there
    assert store.completed(path, images).all()
    children.make_leftovers_old(path.parent)
    assert build().code == 0
    assert_same_dataset(path, tmp_path / "whole.zarr")
    assert list(path.parent.iterdir()) == [path]

import json
import shutil
import signal

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from calibzarr.errors import StoreError
from calibzarr.storage import store
from calibzarr.storage.commit import update_attributes
from tests.support import children, old_directory
from tests.support.moving import NUM_STEPS, SIZE, made_up_store, take_out


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return made_up_store(tmp_path_factory.mktemp("store") / "a.zarr")


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_every_file_has_the_old_name_keys_dtypes_and_values(path, tmp_path, layout):
    take_out(path, tmp_path, layout=layout)
    dataset = xr.open_zarr(path).load()
    names = {file.name for file in (tmp_path / "samples").iterdir()}
    assert names == {f"{i:04d}_{k:03d}.npz" for i in (0, 1, 3) for k in range(NUM_STEPS + 1)}
    for image in (0, 1, 3):
        for step in range(NUM_STEPS + 1):
            with np.load(tmp_path / "samples" / f"{image:04d}_{step:03d}.npz") as archive:
                arrays = {key: archive[key] for key in archive.files}
            state = dataset.latents[image, step].values
            x = state if layout == "nchw" else state.transpose(1, 2, 0)
            sigma = dataset.sigma.values[step]
            expected = {
                "x": x[None],
                "timestep": np.array(1000 * sigma, np.float16),
                "sigma": np.array(sigma, np.float32),
                "step_index": np.array(step, np.int32),
                "image_id": np.array(image, np.int32),
                "is_final": np.array(step == NUM_STEPS),
            }
            assert list(arrays) == list(expected)
            for key, array in expected.items():
                assert (arrays[key].dtype, arrays[key].shape) == (array.dtype, array.shape)
                np.testing.assert_array_equal(arrays[key], array)
        final = dataset.latents[image, -1].values.transpose(1, 2, 0)
        processed = np.load(tmp_path / "latents" / f"{image:04d}.npy")
        assert (processed.shape, processed.dtype) == ((1, SIZE, SIZE, 16), np.float16)
        np.testing.assert_allclose(processed[0], final / 1.5305 + 0.0609, atol=2e-3)
        picture = np.asarray(Image.open(tmp_path / "images" / f"{image:04d}.png"))
        np.testing.assert_array_equal(picture, dataset.decoded[image])


def test_latents_of_flux_are_processed_as_diffusionkit_does(tmp_path):
    from calibzarr.models.compatibility import import_diffusionkit

    path = made_up_store(tmp_path / "a.zarr", num_images=1, incomplete=())
    update_attributes(path, {"model": "flux-dev"})
    take_out(path, tmp_path / "old", only=["latents"])
    assert sorted(p.name for p in (tmp_path / "old").iterdir() if p.name[0] != ".") == ["latents"]
    final = xr.open_zarr(path).latents[0, -1].values.transpose(1, 2, 0)
    expected = import_diffusionkit().FluxLatentFormat().process_out(final).astype(np.float16)
    np.testing.assert_array_equal(
        np.load(tmp_path / "old" / "latents" / "0000.npy"), expected[None]
    )


def test_manifest_has_every_key_and_image_i_at_place_i(path, tmp_path):
    take_out(path, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    images = manifest.pop("images")
    assert manifest == {
        "n_completed": 3,
        "num_steps": NUM_STEPS,
        "cfg_scale": 7.5,
        "latent_size": [SIZE, SIZE],
        "prompt_path": "all.csv",
        "num_images": 4,
        "model_version": "argmaxinc/mlx-stable-diffusion-3-medium",
        "use_t5": True,
        "seed_base": 7,
        "images_saved": True,
        "latents_saved": True,
    }
    for place, entry in enumerate(images):
        there = place != 2
        assert entry == {
            "image_id": place,
            "prompt": f"a thing, number {place}",
            "seed": 7 + place,
            "cfg_weight": 7.5,
            "num_steps": NUM_STEPS,
            "filename": f"{place:04d}.png" if there else None,
            "latent_filename": f"{place:04d}.npy" if there else None,
        }


@pytest.mark.parametrize(
    ("options", "images"),
    [
        ({"num_images": 2}, [0, 1]),
        ({"images": (1, 4)}, [1, 3]),
        ({"images": (1, 4), "num_images": 1}, [1]),
        ({"num_images": 100}, [0, 1, 3]),
    ],
)
def test_some_images_and_some_parts(path, tmp_path, options, images):
    result = take_out(path, tmp_path, only=["samples", "manifest"], **options)
    assert result.num_images == len(images)
    names = {file.name[:4] for file in (tmp_path / "samples").iterdir()}
    assert names == {f"{image:04d}" for image in images}
    assert not (tmp_path / "images").exists()
    assert json.loads((tmp_path / "manifest.json").read_text())["n_completed"] == len(images)


def test_parts_add_up_to_the_whole(path, tmp_path):
    take_out(path, tmp_path / "whole")
    take_out(path, tmp_path / "parts", images=(1, 4), only=["samples", "latents", "manifest"])
    take_out(path, tmp_path / "parts", images=(0, 2))
    take_out(path, tmp_path / "parts", only=["images", "manifest"])
    old_directory.assert_equal(tmp_path / "parts", tmp_path / "whole")


def test_workers_write_the_same(path, tmp_path):
    take_out(path, tmp_path / "one")
    take_out(path, tmp_path / "two", workers=2)
    old_directory.assert_equal(tmp_path / "two", tmp_path / "one")


def test_a_store_of_float16_comes_out_as_float32(tmp_path):
    path = made_up_store(tmp_path / "a.zarr", 1, (), latent_dtype="float16")
    take_out(path, tmp_path / "old")
    with np.load(tmp_path / "old" / "samples" / "0000_001.npz") as archive:
        assert archive["x"].dtype == np.float32
        np.testing.assert_array_equal(archive["x"][0], xr.open_zarr(path).latents[0, 1])


def test_what_is_there_stays_and_what_is_missing_comes_back(path, tmp_path):
    take_out(path, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "old")
    lost = ["samples/0001_002.npz", "latents/0003.npy", "manifest.json"]
    for name in lost:
        (tmp_path / "old" / name).unlink()
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "old").glob("*/*")}
    take_out(path, tmp_path / "old")
    old_directory.assert_equal(tmp_path / "old", tmp_path / "whole")
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())


def test_a_damaged_image_is_named(tmp_path):
    path = made_up_store(tmp_path / "a.zarr")
    shard = path / "latents" / "c.1.0.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"c\.1\.0\.0\.0\.0 is damaged"):
        take_out(path, tmp_path / "old")
    assert not (tmp_path / "old" / "manifest.json").exists()


@pytest.fixture(scope="module")
def collected(make_store):
    return make_store(num_images=3, num_steps=4, collect={"images": (0, 2), "steps": [0, 2, 3]})


@pytest.mark.parametrize("sigma", [[0.0, 0.2, 0.6, 1.0], [1.0, float("nan"), 0.5, 0.0]])
def test_noise_levels_that_do_not_fall_are_not_written(tmp_path, sigma):
    path = made_up_store(tmp_path / "a.zarr", num_images=1, incomplete=())
    store.array(store.open_group(path, mode="r+"), "sigma")[:] = np.float32(sigma)
    with pytest.raises(StoreError, match="its sigma does not fall to 0"):
        take_out(path, tmp_path / "old")
    assert not (tmp_path / "old").exists()


def test_statistics_are_those_of_the_blocks_over_all_collected_steps(collected, tmp_path):
    take_out(collected, tmp_path)
    folder = tmp_path / "activations"
    statistics = json.loads((folder / "layer_statistics.json").read_text())
    dataset = xr.open_zarr(collected).load().isel(step=[0, 2, 3])
    assert list(statistics) == [f"mm_block_{block}" for block in range(4)]
    edges = dataset.bin_low.values, dataset.bin_high.values
    for name, row in statistics.items():
        own = dataset.sel(layer=name)
        assert row["num_samples"] == own.value_count.sum()
        assert (row["min"], row["max"]) == (own.value_min.min(), own.value_max.max())
        # by the raw moments, another way than the one taken
        count = own.value_count / own.value_count.sum()
        mean = float((own.value_mean * count).sum())
        square = float(((own.value_std**2 + own.value_mean**2) * count).sum())
        np.testing.assert_allclose(row["mean"], mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(row["std"], np.sqrt(square - mean**2), rtol=1e-9)
        percentiles = row["percentiles"]
        assert list(percentiles) == [f"p{p:02d}" for p in (1, 5, 10, 25, 50, 75, 90, 95, 99)]
        below = own.histogram.sum("step").values.cumsum()
        for key, value in percentiles.items():
            rank = int(key[1:]) / 100 * (below[-1] - 1)
            first, second = np.searchsorted(below, [rank, np.floor(rank) + 1], side="right")
            assert edges[0][first] <= value <= edges[1][min(second, len(below) - 1)]
    assert json.loads((folder / "collection_metadata.json").read_text()) == {
        "num_images_processed": 2,
        "num_timesteps_per_image": 3,
        "total_samples": 6,
        "key_timesteps": [0, 2, 3],
        "selected_image_ids": [0, 1],
        "collection_time_minutes": None,
        "errors": [],
    }


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_export_goes_on_to_the_same_files(tmp_path, how):
    path = made_up_store(tmp_path / "a.zarr", num_images=40, incomplete=())
    take_out(path, tmp_path / "whole")
    directory = tmp_path / "old"
    arguments = ("export-legacy", path, directory, "--workers", 2)
    ended = children.run(children.command_with_signal, 2, how, *arguments)
    if how == signal.SIGINT:
        assert ended.code == 130, ended.stderr
        assert "go on with the same command" in ended.stdout
        assert "Traceback" not in ended.stderr
    else:
        assert ended.killed
    assert not (directory / "manifest.json").exists()
    files = list((directory / "samples").glob("*.npz"))
    assert 2 * (NUM_STEPS + 1) <= len(files) < 40 * (NUM_STEPS + 1)
    for file in files:
        with np.load(file) as archive:  # whatever has its name is whole
            assert archive["x"].shape == (1, 16, SIZE, SIZE)
    children.make_leftovers_old(directory)
    take_out(path, directory)
    old_directory.assert_equal(directory, tmp_path / "whole")
    assert not list(directory.rglob("*.partial"))


def test_the_command_says_what_it_wrote_and_errors_are_one_line(path, tmp_path):
    old = tmp_path / "old"
    command = (children.command, "export-legacy", path, old, "--only")
    result = children.run(*command, "samples,manifest,latents")
    assert result.code == 0
    assert "1 images are not complete, and left out" in result.stderr
    assert f"{old}: 3 images of {path}" in result.stdout
    assert f"calibzarr import-legacy {old}" in result.stdout
    result = children.run(*command, "all")
    assert (result.code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: --only must be some of samples, latents, images")
    assert result.stderr.count("\n") == 1

"""Stores to test with, and what is asked of any."""

import hashlib
import json
import shutil
import warnings

import numpy as np
import xarray as xr

from calibzarr.storage import store


def snapshot(path):
    """Hash of every file below a directory."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(f.relative_to(path)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


SIZES = store.Sizes(num_images=3, num_steps=4, latent_shape=(16, 8, 8), image_size=64)


def create(path, num_images=3, latent_dtype="float32"):
    sizes = store.Sizes(num_images, SIZES.num_steps, SIZES.latent_shape, SIZES.image_size)
    sigma = np.linspace(1, 0, 5, dtype=np.float32)
    coordinates = {
        "sigma": sigma,
        "timestep": 1000 * sigma,
        "final": sigma == 0,
        "prompt": np.array([f"prompt {i}" for i in range(num_images)], dtype=object),
        "seed": np.arange(num_images),
    }
    store.create(path, sizes, coordinates, {"latent_dtype": latent_dtype, "n_completed": 0})


def random_image(seed):
    generator = np.random.default_rng(seed)
    latents = generator.standard_normal((5, 16, 8, 8)).astype(np.float32)
    return latents, generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)


def open_strictly(path):
    """As any user would, with no warning allowed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xr.open_zarr(path)
    dataset.attrs.pop("integrity", None)  # how often it was changed, and by what files
    return dataset


def without_index(path, names=()):
    """Make a store one of 0.1, without an index, and without some variables."""
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"].pop("integrity", None)
    for name in names:
        root["consolidated_metadata"]["metadata"].pop(name)
        shutil.rmtree(path / name, ignore_errors=True)
    (path / "zarr.json").write_text(json.dumps(root))
    shutil.rmtree(path / "copies", ignore_errors=True)
    return path


def shrunk(source, target):
    """A store of the embedders and the first block alone, written by xarray."""
    dataset = xr.open_zarr(source, chunks=None).isel(layer=slice(0, 21)).load()
    for variable in dataset.variables.values():
        variable.encoding = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of consolidated metadata in Zarr 3
        dataset.to_zarr(target, zarr_format=3, consolidated=True)
    return target

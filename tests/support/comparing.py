"""Stores that differ from another by known errors."""

import shutil

import numpy as np
import xarray as xr

from calibzarr.storage import store


def noisy_copy(source, target, latents, pictures, images=None):
    """Copy a store with noise of these standard deviations; give the errors of its states.

    Shape of what is returned: (image, step, channel, height, width), of the images that it has.
    """
    dataset = xr.open_zarr(source).load()
    shutil.copytree(source, target)
    generator = np.random.default_rng(1)
    writer = store.ImageWriter(target)
    states = dataset.latents.values
    noise = (latents * generator.standard_normal(states.shape)).astype(np.float32)
    decoded = dataset.decoded.values + pictures * generator.standard_normal(dataset.decoded.shape)
    for image in range(len(states)):
        picture = decoded[image].round().clip(0, 255).astype(np.uint8)
        writer.write(image, states[image] + noise[image], picture)
    for image in range(len(states)):
        if images is not None and image not in images:
            (target / "latents" / f"c.{image}.0.0.0.0").unlink()
    return noise

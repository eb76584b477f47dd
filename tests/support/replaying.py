"""A store with statistics, and the very values that they are of."""

from dataclasses import dataclass

import mlx.nn as nn
import numpy as np
import pytest
import xarray as xr

from calibzarr.models.compatibility import import_diffusionkit

kit = import_diffusionkit()


NUM_STEPS = 3


@dataclass(frozen=True)
class Replayed:
    """A store with statistics, and the very values that they are of.

    Attributes:
        path: of a store with 7 images, of which the first 5 are collected at all 4 steps.
        bare: of the same store without statistics.
        dumped: by layer, image and step, shape (guidance, token, feature).
        weights: by layer, shape (output, feature).
    """

    path: object
    bare: object
    dumped: dict
    weights: dict

    def values(self, layer, steps=range(4), images=range(5)):
        """Shape (image, step, guidance * token, feature)."""
        dumped = self.dumped[layer]
        return np.stack(
            [
                np.stack([dumped[i, s].reshape(-1, dumped[i, s].shape[-1]) for s in steps])
                for i in images
            ]
        )


def dump(path, tiny, num_steps=NUM_STEPS, steps=range(NUM_STEPS + 1)):
    """Every input of a linear layer and output of a block, by patching the classes."""
    dataset = xr.open_zarr(path).load()
    modules = {id(module): name for name, module in tiny.pipeline.mmdit.named_modules()}
    inputs = {own.module: own.name for own in tiny.layers() if own.role == "input"}
    outputs = {(own.module, own.stream): own.name for own in tiny.layers() if own.role == "output"}
    block_class = kit.mmdit.MultiModalTransformerBlock
    linear, block = nn.Linear.__call__, block_class.__call__
    dumped, place = {}, None

    def keep(name, values):
        if name is not None:
            values = np.array(values)
            shape = (values.shape[0], -1, values.shape[-1])
            dumped.setdefault(name, {})[place] = values.reshape(shape)

    def linear_call(self, x):
        keep(inputs.get(modules.get(id(self))), x)
        return linear(self, x)

    def block_call(self, *args, **kwargs):
        result = block(self, *args, **kwargs)
        for stream, values in zip(("image", "text"), result, strict=True):
            keep(outputs.get((modules[id(self)], stream)), values)
        return result

    schedule = tiny.schedule(num_steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Linear, "__call__", linear_call)
        patch.setattr(block_class, "__call__", block_call)
        for image in range(dataset.sizes["image"]):
            conditioning = tiny.encode([str(dataset.prompt.values[image])], 3.0)
            for step in steps:
                place = image, step
                x = tiny.from_numpy(dataset.latents.values[[image], step])
                with tiny.denoiser(conditioning, schedule, [step]) as denoise:
                    np.array(denoise(x, step))
    return dumped

"""``latents`` as xarray sees them: read when they are used, without the way through zarr."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from calibzarr.storage import schema, shards


def open_dataset(path: Path, metadata: dict[str, Any]) -> xr.Dataset:
    """Open a local store without dask.

    Args:
        path: directory of the store.
        metadata: of ``latents``; what :mod:`calibzarr.storage.shards` can read, zarr does not.
    """
    dataset = xr.open_zarr(path, chunks=None)
    if not shards.is_ours(metadata):
        return dataset
    latents = dataset[schema.LATENTS.name].variable
    directory, checksums = path / schema.LATENTS.name, shards.has_checksums(metadata)
    lazy = Latents(directory, latents.shape, latents.dtype, checksums)
    variable = xr.Variable(latents.dims, indexing.LazilyIndexedArray(lazy), latents.attrs)
    return dataset.assign({schema.LATENTS.name: variable})


class Latents(BackendArray):
    """``latents`` of a local store, read on use, for xarray's lazy indexing.

    Args:
        directory: of the variable.
        shape: (image, step, channel, height, width).
        dtype: of the values.
        checksums: whether each state has its own.
    """

    def __init__(
        self, directory: Path, shape: tuple[int, ...], dtype: np.dtype, checksums: bool
    ) -> None:
        self.directory = directory
        self.checksums = checksums
        self.shape = shape
        self.dtype = dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        images, steps = (
            np.atleast_1d(np.arange(size)[own])
            for own, size in zip(key[:2], self.shape[:2], strict=True)
        )
        states = np.empty((len(images), len(steps), *self.shape[2:]), self.dtype)
        for target, image in zip(states, images, strict=True):
            file = self.directory / shards.file_name(image)
            shards.read_states(file, self.shape[1], steps, target, self.checksums)
        done = [0 if isinstance(own, int | np.integer) else slice(None) for own in key[:2]]
        for axis, own in reversed(list(enumerate([*done, *key[2:]]))):  # one axis at a time
            states = states[(slice(None),) * axis + (own,)]
        return states

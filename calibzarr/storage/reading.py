"""Stores as xarray datasets: ``latents`` read on use, without the way through zarr; statistics."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from calibzarr.errors import Call, StoreError
from calibzarr.storage import schema, shards, store


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


def open_statistics(path: str | Path) -> xr.Dataset:
    """Open what was collected: the covered steps and images alone, read when they are used.

    Args:
        path: directory of the store.

    Returns:
        The variables of the statistics; ``step`` numbers the states of the sampling. All
        coordinates about layers are there, also of stores that are without some.

    Raises:
        FileNotFoundError: if nothing is at ``path``.
        StoreError: if it is no calibzarr store, or has no statistics.
    """
    path = Path(path)
    if schema.ACTIVATIONS not in store.manifest(path):
        raise StoreError(
            f"{path} has no statistics yet; make them with: ", Call("collect", (path,))
        )
    # Without xarray's cache: a large model's statistics would stay in memory.
    dataset = xr.open_dataset(path, engine="zarr", chunks=None, cache=False)
    names = [variable.name for variable in schema.COLLECTED_VARIABLES if not variable.coordinate]
    text = {  # of fixed width, which NumPy can do more with
        variable.name: ("layer", dataset[variable.name].values.astype(object).astype(str))
        for variable in schema.LAYER_COORDINATES
        if variable.dtype == "string" and variable.name in dataset
    }
    statistics = dataset[names].assign_coords({"step": np.arange(dataset.sizes["step"]), **text})
    statistics = statistics.isel(
        step=_indices(dataset[schema.COLLECTED.name].values),
        image=_indices(dataset[schema.COLLECTED_IMAGE.name].values),
    )
    if all(variable.name in dataset for variable in schema.LAYER_COORDINATES):
        return statistics
    return statistics.assign_coords(
        {name: ("layer", values) for name, values in _guessed_coordinates(statistics).items()}
    )


def _indices(chosen: np.ndarray) -> slice | np.ndarray:
    """Indices of what is chosen; a slice where possible, which is read faster."""
    indices = np.flatnonzero(chosen)
    first, last = (int(indices[end]) for end in (0, -1))
    return slice(first, last + 1) if last - first + 1 == len(indices) else indices


def _guessed_coordinates(statistics: xr.Dataset) -> dict[str, np.ndarray]:
    """What older stores do not say of their layers, which are all DiffusionKit's.

    Layers of a block read the same values if their statistics are the same to the last bit.
    """
    names, blocks, streams, kinds, roles = (
        statistics[name].values for name in ("layer", "block", "stream", "kind", "role")
    )
    projections = np.isin(kinds, ("attn.q_proj", "attn.k_proj", "attn.v_proj"))
    tied = np.where(projections, np.char.add(np.char.add(blocks, " "), streams), names)
    in_block = np.unique(np.char.add(blocks, roles), return_inverse=True)[1]
    values = [statistics[name].values for name in ("value_min", "value_max", "value_mean")]
    signatures = np.column_stack([in_block, *map(np.nan_to_num, values)])
    after_gelu = (kinds == "mlp.fc2") & (np.char.find(blocks, "_block_") >= 0)
    return {
        "input_group": _first_of_equals(names, signatures),
        "tied_group": _first_of_equals(names, tied),
        "follows": np.where(after_gelu, "gelu", ""),
        "text_only": np.isin(blocks, ("y_embedder", "context_embedder")),
    }


def _first_of_equals(names: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """For each row, the name of the first one with the same key."""
    _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return np.asarray(names[first[group.ravel()]])

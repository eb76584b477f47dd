"""A store as xarray sees it: values are read when they are used, states without the way by zarr."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from calibzarr.errors import Call, StoreError
from calibzarr.storage import copies, durable, manifest, schema, shards
from calibzarr.storage.manifest import Root, as_root, read_root
from calibzarr.storage.store import completed, noise_levels, stored_prompts

CACHED = ("histogram", "value_min", "value_max", "value_count", "value_mean", "value_std")
"""Statistics that ``open_statistics`` has of the caching pass at steps that are not collected."""


def open_store(path: str | Path | Root) -> xr.Dataset:
    """Open a calibration dataset for fast slicing.

    Values are read when they are used, without dask. ``complete`` and the attribute
    ``n_completed`` tell what is in the store at this moment, also while a build goes on. ``image``
    and ``step`` number images and states, so that a selection keeps them; no store has them.

    Args:
        path: directory of the store, or what its root said when it was read.

    Returns:
        The dataset; its variables are described in ``stores/README.md``.

    Raises:
        FileNotFoundError: if nothing is at ``path``.
        StoreError: if it is no calibzarr store, or of a format that this version cannot read.
    """
    root = as_root(Path(path) if isinstance(path, str) else path)
    dataset = open_dataset(root)
    metadata = root.arrays[schema.LATENTS.name]
    if shards.is_ours(metadata):
        latents = dataset[schema.LATENTS.name].variable
        lazy = indexing.LazilyIndexedArray(Latents(root.path, metadata))
        dataset[schema.LATENTS.name] = xr.Variable(latents.dims, lazy, latents.attrs)
    complete = completed(root.path, dataset.sizes["image"])
    dataset = dataset.assign_coords(
        {
            schema.COMPLETE.name: ("image", complete, dataset[schema.COMPLETE.name].attrs),
            **{dim: np.arange(dataset.sizes[dim]) for dim in ("image", "step")},
        }
    )
    return dataset.assign_attrs(n_completed=int(complete.sum()))


def open_dataset(root: Root, *, cache: bool = True) -> xr.Dataset:
    """Open all variables as zarr and xarray read them.

    Args:
        root: what the store's root said when it was read; it is not read again.
        cache: whether xarray keeps in memory what was read.
    """
    local = durable.DurableStore(root.path, read_only=True, known={manifest.FILE: root.content})
    dataset = xr.open_dataset(
        local,  # type: ignore[arg-type]  # the engine takes it
        engine="zarr",
        chunks=None,
        cache=cache,
        consolidated=True,
        zarr_format=3,
    )
    dataset.attrs.pop(copies.ATTRIBUTE, None)  # of these very files, and of no copy
    dataset.encoding["source"] = str(root.path.absolute())  # as xarray says where it has a path
    return dataset


class Latents(BackendArray):
    """``latents`` of a store, read on use, for xarray's lazy indexing.

    Args:
        path: directory of the store.
        metadata: of ``latents``.
    """

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        self.path = path
        self.metadata = metadata
        self.shape = tuple(metadata["shape"])
        self.dtype = np.dtype(metadata["data_type"])

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        images, steps = (
            np.atleast_1d(np.arange(size)[selection])
            for selection, size in zip(key[:2], self.shape[:2], strict=True)
        )
        states = shards.read_states(self.path, self.metadata, images, steps)
        done = [0 if isinstance(one, int | np.integer) else slice(None) for one in key[:2]]
        for axis, selection in reversed(list(enumerate([*done, *key[2:]]))):  # one axis at a time
            states = states[(slice(None),) * axis + (selection,)]
        return states


def open_statistics(path: str | Path | Root) -> xr.Dataset:
    """Open what was collected: the covered steps and images alone, read when they are used.

    Args:
        path: directory of the store, or what its root said when it was read.

    Returns:
        The variables of the statistics; ``step`` numbers the states of the sampling. All
        coordinates about layers are there, also of stores that are without some. What the layers
        of the caching pass saw at the other calls is in variables such as ``cached_histogram``,
        by layer and ``cached_step``; ``cached_observed`` says of which layers. No other is there.
        ``state_sigma`` has the noise levels of all states.

    Raises:
        FileNotFoundError: if nothing is at ``path``.
        StoreError: if it is no calibzarr store, has no statistics, or its sigma is damaged.
    """
    root = as_root(Path(path) if isinstance(path, str) else path)
    if schema.ACTIVATIONS not in root.attributes:
        raise StoreError(
            f"{root.path} has no statistics yet; make them with: ", Call("collect", (root.path,))
        )
    dataset = open_dataset(root, cache=False)  # a large model's would stay in memory
    covered = all(
        dataset[one.name].values.any() for one in (schema.COLLECTED, schema.COLLECTED_IMAGE)
    )
    if not covered or (dataset["features"].values < 1).any():  # a lost chunk reads so
        raise copies.damaged(root.path, "its statistics cover nothing, or a layer has no features")
    names = [
        variable.name
        for variable in schema.COLLECTED_VARIABLES
        if not (variable.coordinate or variable.optional)
    ]
    text = {  # of fixed width, which NumPy can do more with
        variable.name: ("layer", dataset[variable.name].values.astype(object).astype(str))
        for variable in schema.LAYER_COORDINATES
        if variable.dtype == "string" and variable.name in dataset
    }
    every_step = dataset[names].assign_coords(
        {
            **{dim: np.arange(dataset.sizes[dim]) for dim in ("image", "step")},
            "state_sigma": ("state", noise_levels(root)),
            **text,
        }
    )
    statistics = every_step.isel(
        step=_indices(dataset[schema.COLLECTED.name].values),
        image=_indices(dataset[schema.COLLECTED_IMAGE.name].values),
    ).assign(_cached(dataset, every_step))
    if all(variable.name in dataset for variable in schema.LAYER_COORDINATES):
        return statistics
    return statistics.assign_coords(
        {name: ("layer", values) for name, values in _guessed_coordinates(statistics).items()}
    )


def _cached(dataset: xr.Dataset, every_step: xr.Dataset) -> dict[str, xr.DataArray]:
    """What layers of the caching pass alone saw, at steps that are not collected."""
    observed = np.zeros((dataset.sizes["layer"], dataset.sizes["step"]), dtype=bool)
    if schema.OBSERVED.name in dataset:
        observed = dataset[schema.OBSERVED.name].values & ~dataset[schema.COLLECTED.name].values
    steps = np.flatnonzero(observed.any(axis=0))
    variables = every_step[list(CACHED)].isel(step=steps).rename(step="cached_step")
    cached = {f"cached_{name}": array.variable for name, array in variables.data_vars.items()}
    dims = ("layer", "cached_step")
    coordinates = {"cached_step": steps}
    return {
        "cached_observed": xr.DataArray(observed[:, steps], coordinates, dims),
        **{name: xr.DataArray(variable, coordinates) for name, variable in cached.items()},
    }


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


def info(path: str | Path) -> dict[str, Any]:
    """Describe a store, in JSON types.

    Args:
        path: directory of the store.

    Returns:
        ``path``; ``manifest`` (the root attributes); ``num_images`` and ``n_completed`` (from
        the keys, at this moment); ``bytes`` of each variable's files; ``files``, their number;
        ``collected`` (what statistics cover, None where there are none).

    Raises:
        FileNotFoundError: if nothing is at ``path``.
        StoreError: if it is no calibzarr store, or of a format that this version cannot read.
    """
    path = Path(path)
    root = read_root(path)
    prompts, _ = stored_prompts(root)
    return {
        "path": str(path),
        "manifest": root.attributes,
        "num_images": len(prompts),
        "n_completed": int(completed(path, len(prompts)).sum()),
        "bytes": bytes_on_disk(path),
        "files": sum(file.is_file() for file in path.rglob("*")),
        "collected": root.attributes.get(schema.ACTIVATIONS),
    }


def bytes_on_disk(path: Path) -> dict[str, int]:
    """Bytes of each variable's files, and of the metadata under the name ``metadata``."""
    sizes: dict[str, int] = {"metadata": 0}
    for file in path.rglob("*"):
        if file.is_file():
            parts = file.relative_to(path).parts
            name = "metadata" if parts[-1] == "zarr.json" else parts[0]
            sizes[name] = sizes.get(name, 0) + file.stat().st_size
    return sizes

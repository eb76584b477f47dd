"""Arrays of a store: created as the schema describes them, opened, and let grow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from calibzarr.errors import StoreError
from calibzarr.storage import durable, manifest, schema
from calibzarr.storage.manifest import Root, as_root
from calibzarr.storage.variable import Variable


def create(
    group: zarr.Group,
    variables: Sequence[Variable],
    sizes: Mapping[str, int],
    latent_dtype: str = "float32",
    *,
    checksums: bool = True,
) -> None:
    """Create arrays as the schema describes them, with their metadata and no data.

    Args:
        group: the root group.
        variables: of the schema.
        sizes: of every dimension that they have.
        latent_dtype: dtype of ``latents``.
        checksums: whether every chunk ends with one; the first stores had none.
    """
    for variable in variables:
        dtype = latent_dtype if variable is schema.LATENTS else variable.dtype
        attributes: dict[str, Any] = {"long_name": variable.description}
        if dtype != "string":
            attributes["units"] = variable.units
        if coordinates := _coordinates(variable, variables):
            attributes["coordinates"] = " ".join(coordinates)
        group.create_array(
            variable.name,
            shape=variable.shape(sizes),
            dtype=str if dtype == "string" else dtype,
            chunks=variable.extent(variable.chunk, sizes),
            shards=None if variable.shard is None else variable.extent(variable.shard, sizes),
            compressors=[_compressor(variable, dtype), *([Crc32cCodec()] if checksums else [])],
            fill_value=variable.fill_value,
            dimension_names=variable.dims,
            chunk_key_encoding={"name": "default", "separator": "."},
            attributes=attributes,
        )


def _coordinates(variable: Variable, variables: Sequence[Variable]) -> list[str]:
    """Names for the attribute by which xarray knows coordinates.

    Optional ones name each other: what others say is the same in stores that are without them.
    """
    if variable.coordinate and not variable.optional:
        return []
    return [
        other.name
        for other in variables
        if other.coordinate
        and other.optional == (variable.coordinate and variable.optional)
        and other.dims[0] in variable.dims
    ]


def _compressor(variable: Variable, dtype: str) -> BloscCodec | ZstdCodec:
    if dtype == "string":
        return ZstdCodec()
    return BloscCodec(
        cname="zstd",
        clevel=variable.compression_level,
        shuffle="bitshuffle",
        typesize=np.dtype(dtype).itemsize,
    )


def open_group(
    store: Path | Root, mode: Literal["r", "r+"] = "r+", *, consolidated: bool = True
) -> zarr.Group:
    """Open a store's root group; what is written is on the disk before its key appears.

    Args:
        store: its directory, or what its root said when it was read.
        mode: ``r`` to read alone.
        consolidated: whether arrays are as readers see them, or as their own metadata say.
    """
    root = as_root(store)
    local = durable.DurableStore(root.path, known={manifest.FILE: root.content})
    return zarr.open_group(local, mode=mode, zarr_format=3, use_consolidated=consolidated)


def array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """One variable; all its chunks are written, also those equal to the fill value."""
    member = group[name]
    if not isinstance(member, zarr.Array):
        raise StoreError(f"{group.store} is damaged: {name} is a group, not an array")
    return member.with_config({"write_empty_chunks": True, "order": "C"})


def resize_images(members: Mapping[str, zarr.Array[Any]], num_images: int) -> None:
    """Change the number of images of every array that has them."""
    for member in members.values():
        names = getattr(member.metadata, "dimension_names", None) or ()
        if "image" in names:
            extent = [
                num_images if name == "image" else size
                for name, size in zip(names, member.shape, strict=True)
            ]
            member.resize(tuple(extent))

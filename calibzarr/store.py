"""One Zarr store: create, open, write one image, list what is complete."""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec
from zarr.errors import ZarrUserWarning

from calibzarr import durable, schema

_SHARD_KEY = re.compile(rf"c\.(\d+)(?:\.0){{{len(schema.LATENTS.dims) - 1}}}")


@dataclass(frozen=True)
class Sizes:
    """Sizes of the dimensions of a build."""

    num_images: int
    num_steps: int
    latent_shape: tuple[int, int, int]
    image_size: int

    @property
    def by_dimension(self) -> dict[str, int]:
        """Every dimension of the build's variables with its size."""
        channel, height, width = self.latent_shape
        return {
            "image": self.num_images,
            "step": self.num_steps + 1,
            "channel": channel,
            "height": height,
            "width": width,
            "row": self.image_size,
            "column": self.image_size,
            "rgb": 3,
        }


def exists(path: Path) -> bool:
    """Whether something other than an empty directory stands at ``path``."""
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def manifest(path: Path) -> dict[str, Any]:
    """Root attributes of a store.

    Raises:
        FileNotFoundError: if nothing is at ``path``.
        ValueError: if it is no calibzarr store, or one of a format that this version cannot read.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no store at {path}")
    if not path.is_dir():
        raise ValueError(f"{path} is a file; a calibzarr store is a directory")
    try:
        metadata = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        attributes = metadata.get("attributes", {})
    except FileNotFoundError:
        raise ValueError(f"{path} is not a calibzarr store: it has no zarr.json") from None
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: its zarr.json cannot be read ({error})") from None
    if attributes.get("format") != schema.FORMAT:
        raise ValueError(
            f"{path} is not a calibzarr store: its format is {attributes.get('format')!r}, "
            f"not {schema.FORMAT!r}"
        )
    version = attributes.get("format_version")
    if version != schema.FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version!r}; this calibzarr reads version "
            f"{schema.FORMAT_VERSION}. Upgrade calibzarr to open it"
        )
    return dict(attributes)


def create(
    path: Path,
    sizes: Sizes,
    coordinates: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
) -> None:
    """Create a store whole, with metadata and coordinates but no image, in one rename.

    Args:
        path: where; nothing, or an empty directory.
        sizes: sizes of the dimensions.
        coordinates: values of ``sigma``, ``timestep``, ``final``, ``prompt`` and ``seed``.
        attributes: the manifest, JSON types only.

    Raises:
        FileExistsError: if something is at ``path`` already.
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.remove_abandoned(path.parent.glob(f"{path.name}.*.partial"))
    with durable.new_directory(path) as template:
        group = zarr.create_group(
            durable.DurableStore(template),
            zarr_format=3,
            attributes={
                "format": schema.FORMAT,
                "format_version": schema.FORMAT_VERSION,
                **attributes,
            },
        )
        coordinate_names = [v.name for v in schema.BUILD_VARIABLES if v.coordinate]
        for variable in schema.BUILD_VARIABLES:
            _create_array(group, variable, sizes, attributes["latent_dtype"], coordinate_names)
        for name, values in coordinates.items():
            _array(group, name)[:] = values
        _consolidate(group.store)


def _create_array(
    group: zarr.Group,
    variable: schema.Variable,
    sizes: Sizes,
    latent_dtype: str,
    coordinate_names: Sequence[str],
) -> None:
    by_dimension = sizes.by_dimension
    dtype = latent_dtype if variable is schema.LATENTS else variable.dtype
    attributes: dict[str, Any] = {"long_name": variable.description}
    if variable.units:
        attributes["units"] = variable.units
    own = [n for n in coordinate_names if _dims(n)[0] in variable.dims]
    if own and not variable.coordinate:
        attributes["coordinates"] = " ".join(own)
    text = dtype == "string"
    group.create_array(
        variable.name,
        shape=variable.shape(by_dimension),
        dtype=str if text else dtype,
        chunks=variable.extent(variable.chunk, by_dimension),
        shards=None if variable.shard is None else variable.extent(variable.shard, by_dimension),
        compressors="auto"
        if text
        else BloscCodec(
            cname="zstd",
            clevel=variable.compression_level,
            shuffle="bitshuffle",
            typesize=np.dtype(dtype).itemsize,
        ),
        fill_value=variable.fill_value,
        dimension_names=variable.dims,
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes=attributes,
    )


def _dims(name: str) -> tuple[str, ...]:
    return next(v.dims for v in schema.BUILD_VARIABLES if v.name == name)


def _consolidate(store: Any) -> None:
    with warnings.catch_warnings():
        # The format's specification leaves consolidation to extensions; xarray reads it.
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        zarr.consolidate_metadata(store)


def open_store(path: str | Path) -> xr.Dataset:
    """Open a calibration dataset for fast slicing.

    Values are read when they are used, without dask. ``complete`` and the attribute
    ``n_completed`` tell what is in the store at this moment, also while a build goes on.

    Args:
        path: directory of the store.

    Returns:
        The dataset; its variables are described in ``stores/README.md``.

    Raises:
        FileNotFoundError: if nothing is at ``path``.
        ValueError: if it is no calibzarr store, or of a format that this version cannot read.
    """
    path = Path(path)
    manifest(path)
    dataset = xr.open_zarr(path, chunks=None)
    complete = completed(path, dataset.sizes["image"])
    dataset = dataset.assign_coords(
        complete=("image", complete, dataset[schema.COMPLETE.name].attrs)
    )
    return dataset.assign_attrs(n_completed=int(complete.sum()))


def completed(path: Path, num_images: int) -> np.ndarray:
    """Which images are complete, by the keys of their shards.

    An image's shard is written last, whole and in one call, so its key is the mark.

    Returns:
        Shape (image,), bool.
    """
    directory = path / schema.LATENTS.name
    matches = (_SHARD_KEY.fullmatch(entry.name) for entry in directory.iterdir())
    images = np.array([int(match[1]) for match in matches if match], dtype=np.int64)
    complete = np.zeros(num_images, dtype=bool)
    complete[images[images < num_images]] = True
    return complete


class ImageWriter:
    """Writes images to a store, each whole or not at all. Writers of other images need no lock."""

    def __init__(self, path: Path) -> None:
        group = _open_group(path)
        self._latents = _array(group, schema.LATENTS.name)
        self._decoded = _array(group, schema.DECODED.name)

    def write(self, image: int, latents: np.ndarray, decoded: np.ndarray) -> None:
        """Write one image; it is complete, and on the disk, when this returns.

        Args:
            image: its index.
            latents: shape (step, channel, height, width).
            decoded: shape (row, column, rgb), uint8.

        Raises:
            OSError: if it cannot be written; the image is then not complete.
        """
        self._decoded[image] = decoded
        self._latents[image] = latents


def stored_prompts(path: Path) -> tuple[list[str], list[int]]:
    """Prompts and seeds of a store's images."""
    group = _open_group(path, mode="r")
    prompts, seeds = (
        np.asarray(_array(group, variable.name)[:]) for variable in (schema.PROMPT, schema.SEED)
    )
    return [str(prompt) for prompt in prompts], [int(seed) for seed in seeds]


def extend(path: Path, prompts: Sequence[str], seeds: Sequence[int]) -> None:
    """Let a store grow to ``len(prompts)`` images; what is stored stays as it is.

    Readers see the old extent until the last write, which replaces the consolidated metadata.
    """
    num_images = len(prompts)
    group = _open_group(path)
    for variable in schema.BUILD_VARIABLES:
        if "image" in variable.dims:
            array = _array(group, variable.name)
            extent = [
                num_images if dim == "image" else size
                for dim, size in zip(variable.dims, array.shape, strict=True)
            ]
            array.resize(tuple(extent))
    group = zarr.open_group(durable.DurableStore(path), mode="r+", use_consolidated=False)
    _array(group, schema.PROMPT.name)[:] = np.asarray(prompts, dtype=object)
    _array(group, schema.SEED.name)[:] = np.asarray(seeds, dtype=np.int64)
    _consolidate(group.store)


def update_attributes(path: Path, attributes: Mapping[str, Any]) -> None:
    """Set root attributes, in one write."""
    _open_group(path).attrs.update(attributes)


def finish(path: Path) -> int:
    """Write ``complete`` and ``n_completed`` from the keys; return how many are complete.

    For one writer, when nobody else builds.
    """
    group = _open_group(path)
    array = _array(group, schema.COMPLETE.name)
    complete = completed(path, array.shape[0])
    array[:] = complete
    n_completed = int(complete.sum())
    group.attrs.update({"n_completed": n_completed})
    return n_completed


def remove_leftovers(path: Path) -> int:
    """Remove files that interrupted writes left behind, and no other; return how many."""
    return durable.remove_abandoned(path.rglob("*.partial"))


def bytes_on_disk(path: Path) -> dict[str, int]:
    """Bytes of each variable's files, and of the metadata under the name ``metadata``."""
    sizes: dict[str, int] = {"metadata": 0}
    for file in path.rglob("*"):
        if file.is_file():
            parts = file.relative_to(path).parts
            name = "metadata" if parts[-1] == "zarr.json" else parts[0]
            sizes[name] = sizes.get(name, 0) + file.stat().st_size
    return sizes


def _open_group(path: Path, mode: Literal["r", "r+"] = "r+") -> zarr.Group:
    return zarr.open_group(durable.DurableStore(path), mode=mode)


def _array(group: zarr.Group, name: str) -> zarr.Array:
    """One variable; all its chunks are written, also those equal to the fill value."""
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise ValueError(f"{group.store} is damaged: {name} is a group, not an array")
    return array.with_config({"write_empty_chunks": True, "order": "C"})

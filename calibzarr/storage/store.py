"""One Zarr store: create, open, write one image, list what is complete."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import zarr

from calibzarr.prompts.lists import prompts_sha256
from calibzarr.storage import arrays, backup, durable, schema, shards

if TYPE_CHECKING:
    import xarray as xr

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


def existing_parent(path: Path) -> Path:
    """The path itself, or the nearest directory above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def check_writable(path: Path) -> None:
    """Check that a directory can be written, or the one that it would be created in.

    Raises:
        OSError: if not.
    """
    parent = existing_parent(path)
    if not parent.is_dir():
        raise NotADirectoryError(f"cannot create {path}: {parent} is not a directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write {path}: no write permission in {parent}")


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
    except FileNotFoundError:
        raise ValueError(f"{path} is not a calibzarr store: it has no zarr.json") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: its zarr.json cannot be read ({error})") from None
    attributes = metadata.get("attributes") if isinstance(metadata, dict) else None
    if not isinstance(attributes, dict):
        raise ValueError(f"{path} is not a calibzarr store: its zarr.json has no attributes")
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
    listed = (metadata.get("consolidated_metadata") or {}).get("metadata", {})
    for variable in schema.BUILD_VARIABLES:
        if variable.name not in listed or not (path / variable.name).is_dir():
            raise ValueError(f"{path} is damaged: it lacks the variable {variable.name}")
    return attributes


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
    path = path.resolve()  # where a link points to is what gets the name
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
        arrays.create(group, schema.BUILD_VARIABLES, sizes.by_dimension, attributes["latent_dtype"])
        for name, values in coordinates.items():
            array(group, name)[:] = values
        backup.write_coordinates(template, coordinates)
        publish(template, {}, [variable.name for variable in schema.BUILD_VARIABLES])


def publish(path: Path, attributes: Mapping[str, Any], names: Iterable[str] | None = None) -> None:
    """Let readers see these attributes, and exactly these arrays as they are now: in one write.

    Readers take both from the root's consolidated metadata; see ``stores/README.md``. Whoever
    calls this holds the store's lock, ``durable.locked(path)``.

    Args:
        path: directory of the store.
        attributes: root attributes to set; one that is None is removed.
        names: variables to list; None for those that are listed, as they were.
    """
    root = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
    kept = {**root.get("attributes", {}), **attributes}
    removed = {name for name, value in attributes.items() if value is None}
    root["attributes"] = {name: value for name, value in kept.items() if name not in removed}
    if names is not None:
        root["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": {
                name: json.loads((path / name / "zarr.json").read_text(encoding="utf-8"))
                for name in sorted(names)
            },
        }
    write_root(path, root)


def write_root(path: Path, root: Mapping[str, Any]) -> None:
    """Put other contents into the root's ``zarr.json``, and then into its copy."""
    durable.write(path / "zarr.json", json.dumps(root, indent=2).encode())
    backup.write_root(path, root)


def published(path: Path) -> list[str]:
    """Names of the variables that readers see."""
    return list(published_metadata(path))


def published_metadata(path: Path) -> dict[str, Any]:
    """Metadata of the variables that readers see, by name."""
    root = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
    return dict(root["consolidated_metadata"]["metadata"])


def open_store(path: str | Path) -> "xr.Dataset":
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
    from calibzarr.storage import reading  # and xarray, which takes longer than all the rest

    path = Path(path)
    manifest(path)
    dataset = reading.open_dataset(path, published_metadata(path)[schema.LATENTS.name])
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
        group = open_group(path)
        self._directory = path / schema.LATENTS.name
        self._latents = array(group, schema.LATENTS.name)
        self._decoded = array(group, schema.DECODED.name)
        self._checksums = shards.has_checksums(published_metadata(path)[schema.LATENTS.name])

    def write(self, image: int, latents: np.ndarray, decoded: np.ndarray) -> None:
        """Write one image; it is complete, and on the disk, when this returns.

        Args:
            image: its index.
            latents: shape (step, channel, height, width).
            decoded: shape (row, column, rgb), uint8.

        Raises:
            IndexError: if the store has no such image.
            ValueError: if ``latents`` are not of the store's shape.
            OSError: if it cannot be written; the image is then not complete.
        """
        num_images, *shape = self._latents.shape
        if not 0 <= image < num_images:
            raise IndexError(f"the store has images 0 to {num_images - 1}, got {image}")
        if latents.shape != tuple(shape):
            raise ValueError(f"latents must be of shape {tuple(shape)}, got {latents.shape}")
        self._decoded[image] = decoded
        shard = shards.encode(latents.astype(self._latents.dtype), self._checksums)
        durable.write(self._directory / shards.file_name(image), shard)


def stored_prompts(path: Path) -> tuple[list[str], list[int]]:
    """Prompts and seeds of a store's images.

    Raises:
        ValueError: if they are not those that the manifest was written for.
    """
    group = open_group(path, mode="r")
    prompts, seeds = (
        np.asarray(array(group, variable.name)[:]) for variable in (schema.PROMPT, schema.SEED)
    )
    texts = [str(prompt) for prompt in prompts]
    if prompts_sha256(texts) != group.attrs.get("prompts_sha256") or (seeds < 0).any():
        raise ValueError(f"{path} is damaged: its prompts or seeds are not those it was begun with")
    return texts, [int(seed) for seed in seeds]


def resize_images(members: Mapping[str, zarr.Array], num_images: int) -> None:
    """Change the number of images of every array that has them."""
    for member in members.values():
        names = getattr(member.metadata, "dimension_names", None) or ()
        if "image" in names:
            extent = [
                num_images if name == "image" else size
                for name, size in zip(names, member.shape, strict=True)
            ]
            member.resize(tuple(extent))


def extend(
    path: Path, prompts: Sequence[str], seeds: Sequence[int], attributes: Mapping[str, Any]
) -> None:
    """Let a store grow to ``len(prompts)`` images; what is stored stays as it is.

    Readers see the old extent until the last write.
    """
    with durable.locked(path):
        if len(prompts) <= array(open_group(path), schema.PROMPT.name).shape[0]:
            return  # another builder was faster
        resize_images(dict(open_group(path).arrays()), len(prompts))
        grown = open_group(path, consolidated=False)
        array(grown, schema.PROMPT.name)[:] = np.asarray(prompts, dtype=object)
        array(grown, schema.SEED.name)[:] = np.asarray(seeds, dtype=np.int64)
        images = {schema.PROMPT.name: np.asarray(prompts), schema.SEED.name: np.asarray(seeds)}
        backup.write_coordinates(path, images)
        publish(path, attributes, published(path))


def update_attributes(path: Path, attributes: Mapping[str, Any]) -> None:
    """Set root attributes, in one write."""
    with durable.locked(path):
        publish(path, attributes)


def finish(path: Path) -> int:
    """Write ``complete`` and ``n_completed`` from the keys; return how many are complete.

    For one writer, when nobody else builds.
    """
    marks = array(open_group(path), schema.COMPLETE.name)
    complete = completed(path, marks.shape[0])
    n_completed = int(complete.sum())
    if not np.array_equal(marks[:], complete):
        marks[:] = complete
    if manifest(path).get("n_completed") != n_completed:
        update_attributes(path, {"n_completed": n_completed})
    return n_completed


def remove_leftovers(path: Path) -> int:
    """Remove files that interrupted writes left behind, and no other; return how many."""
    return durable.remove_abandoned(path.rglob("*.partial"))


def open_group(
    path: Path, mode: Literal["r", "r+"] = "r+", consolidated: bool = True
) -> zarr.Group:
    """Open a store's root group; what is written is on the disk before its key appears.

    Args:
        path: directory of the store.
        mode: ``r`` to read alone.
        consolidated: whether arrays are as readers see them, or as their own metadata say.
    """
    return zarr.open_group(durable.DurableStore(path), mode=mode, use_consolidated=consolidated)


def array(group: zarr.Group, name: str) -> zarr.Array:
    """One variable; all its chunks are written, also those equal to the fill value."""
    member = group[name]
    if not isinstance(member, zarr.Array):
        raise ValueError(f"{group.store} is damaged: {name} is a group, not an array")
    return member.with_config({"write_empty_chunks": True, "order": "C"})

"""One Zarr store: create, open, write one image, list what is complete."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from calibzarr.errors import StoreError
from calibzarr.storage import arrays, backup, durable, manifest, objects, schema, shards
from calibzarr.storage.manifest import Root, as_root


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

    def image_bytes(self, latent_dtype: str) -> int:
        """Estimate of one image's bytes on disk."""
        states = (self.num_steps + 1) * np.prod(self.latent_shape)
        latents = states * np.dtype(latent_dtype).itemsize
        return int(objects.STORED_FRACTION * (latents + 3 * self.image_size**2))


def coordinates(
    sigma: np.ndarray, timestep: np.ndarray, prompts: Sequence[str], seeds: Sequence[int]
) -> dict[str, np.ndarray]:
    """Values of a new store's coordinates, by name.

    Args:
        sigma: noise level of each state, shape (step,).
        timestep: what the model is told of it, shape (step,).
        prompts: one for each image.
        seeds: one for each image.
    """
    last = len(sigma) - 1
    return {
        schema.SIGMA.name: sigma,
        schema.TIMESTEP.name: timestep,
        schema.FINAL.name: np.arange(last + 1) == last,
        schema.PROMPT.name: np.asarray(prompts, dtype=object),
        schema.SEED.name: np.asarray(seeds, dtype=np.int64),
    }


def create(
    path: Path,
    sizes: Sizes,
    coordinates: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
    configuration: str | None = None,
) -> None:
    """Create a store whole, with metadata and coordinates but no image, in one rename.

    Args:
        path: where; nothing, or an empty directory.
        sizes: sizes of the dimensions.
        coordinates: of :func:`coordinates`.
        attributes: the manifest, JSON types only.
        configuration: of a run whose manifest says that it holds one, in JSON.

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
        variables = schema.build_variables(attributes)
        arrays.create(group, variables, sizes.by_dimension, attributes["latent_dtype"])
        for name, values in coordinates.items():
            array(group, name)[:] = values
        if configuration is not None:
            array(group, schema.QUANTIZATION_CONFIG.name)[...] = configuration
        backup.write_coordinates(template, coordinates)
        manifest.publish(template, {}, [variable.name for variable in variables])


def completed(path: Path, num_images: int) -> np.ndarray:
    """Which images are complete, by the keys of their shards.

    An image's shard is written last, whole and in one call, so its key is the mark.

    Returns:
        Shape (image,), bool.
    """
    indices = (schema.LATENTS.index(key.name) for key in (path / schema.LATENTS.name).iterdir())
    complete = np.zeros(num_images, dtype=bool)
    complete[[image for image in indices if image is not None and image < num_images]] = True
    return complete


class ImageWriter:
    """Writes images to a store, each whole or not at all. Writers of other images need no lock."""

    def __init__(self, store: Path | Root) -> None:
        root = as_root(store)
        group = open_group(root)
        self._directory = root.path / schema.LATENTS.name
        self._latents = array(group, schema.LATENTS.name)
        self._decoded = array(group, schema.DECODED.name)
        self._checksums = shards.has_checksums(root.arrays[schema.LATENTS.name])

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
        shard = shards.encode(latents.astype(self._latents.dtype), checksums=self._checksums)
        durable.write(self._directory / schema.LATENTS.key(image), shard)


def stored_prompts(store: Path | Root) -> tuple[list[str], list[int]]:
    """Prompts and seeds of a store's images.

    Raises:
        StoreError: if they are not those that the manifest was written for.
    """
    root = as_root(store)
    group = open_group(root, mode="r")
    prompts, seeds = (
        np.asarray(array(group, variable.name)[:]) for variable in (schema.PROMPT, schema.SEED)
    )
    texts = [str(prompt) for prompt in prompts]
    expected = root.attributes.get("prompts_sha256")
    if manifest.prompts_sha256(texts) != expected or (seeds < 0).any():
        raise StoreError(
            f"{root.path} is damaged: its prompts or seeds are not those it was begun with"
        )
    return texts, [int(seed) for seed in seeds]


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


def extend(
    path: Path, prompts: Sequence[str], seeds: Sequence[int], attributes: Mapping[str, Any]
) -> None:
    """Let a store grow to ``len(prompts)`` images; what is stored stays as it is.

    Readers see the old extent until the last write.

    Args:
        path: directory of the store.
        prompts: one for each image, the first as they were.
        seeds: likewise.
        attributes: the new manifest, of which ``schema.GROWING`` counts.
    """
    with durable.locked(path):
        root = manifest.read_root(path)
        if len(prompts) <= root.num_images:
            return  # another builder was faster
        resize_images(dict(open_group(root).arrays()), len(prompts))
        grown = open_group(root, consolidated=False)
        array(grown, schema.PROMPT.name)[:] = np.asarray(prompts, dtype=object)
        array(grown, schema.SEED.name)[:] = np.asarray(seeds, dtype=np.int64)
        images = {schema.PROMPT.name: np.asarray(prompts), schema.SEED.name: np.asarray(seeds)}
        backup.write_coordinates(path, images)
        grown_attributes = {name: attributes[name] for name in schema.GROWING if name in attributes}
        manifest.publish(path, grown_attributes, root.arrays)


def finish(path: Path) -> int:
    """Write ``complete`` and ``n_completed`` from the keys; return how many are complete.

    For one writer, when nobody else builds.
    """
    root = manifest.read_root(path)
    marks = array(open_group(root), schema.COMPLETE.name)
    complete = completed(path, marks.shape[0])
    n_completed = int(complete.sum())
    if not np.array_equal(marks[:], complete):
        marks[:] = complete
    if root.attributes.get("n_completed") != n_completed:
        manifest.update_attributes(path, {"n_completed": n_completed})
    return n_completed


def remove_leftovers(path: Path) -> int:
    """Remove files that interrupted writes left behind, and no other; return how many."""
    return durable.remove_abandoned(path.rglob("*.partial"))


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

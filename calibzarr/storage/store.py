"""One Zarr store: create, open, write one image, list what is complete."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from calibzarr.errors import StoreError
from calibzarr.statistics.steps import falls_to_zero
from calibzarr.storage import arrays, commit, copies, durable, manifest, objects, schema, shards
from calibzarr.storage.manifest import Root, as_root

open_group, array = arrays.open_group, arrays.array


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
        commit.seal(template)


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
        self._root = root = as_root(store)
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
            StoreError: if the store was moved or removed.
            OSError: if it cannot be written; the image is then not complete.
        """
        num_images, *shape = self._latents.shape
        if not 0 <= image < num_images:
            raise IndexError(f"the store has images 0 to {num_images - 1}, got {image}")
        if latents.shape != tuple(shape):
            raise ValueError(f"latents must be of shape {tuple(shape)}, got {latents.shape}")
        manifest.check_identity(self._root)
        self._decoded[image] = decoded
        picture = durable.read(self._root.path / schema.DECODED.name / schema.DECODED.key(image))
        shard = shards.encode(
            latents.astype(self._latents.dtype),
            checksums=self._checksums,
            head=hashlib.sha256(picture).digest(),
        )
        with durable.new_file(self._directory / schema.LATENTS.key(image)) as file:
            file.write(shard)


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


def noise_levels(store: Path | Root) -> np.ndarray:
    """Noise levels of a store's states, shape (step,), float32.

    Raises:
        StoreError: if they do not fall to 0, without which nothing that is weighted, told or
            divided by them is right.
    """
    root = as_root(store)
    sigma = np.asarray(array(open_group(root, mode="r"), schema.SIGMA.name)[:])
    if not falls_to_zero(sigma):
        raise copies.damaged(root.path, "its sigma does not fall to 0")
    return sigma


def first_non_finite(states: np.ndarray) -> int | None:
    """The first state with a value that is infinite or NaN; None where there is none.

    Args:
        states: of one image, shape (step, ...).
    """
    lost = np.flatnonzero(~np.isfinite(states.reshape(len(states), -1)).all(axis=1))
    return int(lost[0]) if len(lost) else None


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
    if len(prompts) <= manifest.read_root(path).num_images:
        return  # another builder was faster
    with commit.change(path) as change:
        if len(prompts) <= change.root.num_images:
            return  # the same
        group = change.group()
        listed = change.root.arrays  # a user's own, too: xarray wants one size of a dimension
        members = {name: group[name] for name in listed if name != copies.FOLDER}
        found = {name: own for name, own in members.items() if isinstance(own, zarr.Array)}
        arrays.resize_images(found, len(prompts))
        array(group, schema.PROMPT.name)[:] = np.asarray(prompts, dtype=object)
        array(group, schema.SEED.name)[:] = np.asarray(seeds, dtype=np.int64)
        change.attributes |= {n: attributes[n] for n in schema.GROWING if n in attributes}


def finish(path: Path) -> int:
    """Write ``complete`` and ``n_completed`` from the keys; return how many are complete.

    For one writer, when nobody else builds.
    """
    root = manifest.read_root(path)
    marks = np.asarray(array(open_group(root, mode="r"), schema.COMPLETE.name)[:])
    complete = completed(path, root.num_images)
    n_completed = int(complete.sum())
    if not np.array_equal(marks, complete) or root.attributes.get("n_completed") != n_completed:
        with commit.change(path) as change:
            array(change.group(), schema.COMPLETE.name)[:] = complete
            change.attributes["n_completed"] = n_completed
    return n_completed


def remove_leftovers(path: Path) -> int:
    """Remove files that interrupted writes left behind, and no other; return how many."""
    return durable.remove_abandoned(sorted(path.rglob("*.partial")))

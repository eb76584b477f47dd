"""A store as its checks see it: whatever can be read is read, and the rest is told."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from calibzarr.errors import StoreError
from calibzarr.storage import schema, shards, store
from calibzarr.storage.manifest import read_root

_COORDINATES = tuple(variable for variable in schema.BUILD_VARIABLES if variable.coordinate)


@contextmanager
def codec_errors_named() -> Iterator[None]:
    """Tell of what cannot be read by one kind of error, whatever zarr or a codec raises.

    Raises:
        StoreError: in the place of any other error; says the same.
    """
    try:
        yield
    except Exception as error:
        raise StoreError(str(error)) from error


@dataclass(frozen=True)
class Opened:
    """A store whose metadata can be read.

    Attributes:
        path: its directory.
        attributes: the manifest.
        metadata: of ``latents``.
        group: the root group.
        arrays: of the build, by name.
        complete: which images are complete, shape (image,).
        coordinates: those that can be read, by name.
        unreadable: why the others cannot, by name.
    """

    path: Path
    attributes: dict[str, Any]
    metadata: dict[str, Any]
    group: zarr.Group
    arrays: dict[str, zarr.Array[Any]]
    complete: np.ndarray
    coordinates: dict[str, np.ndarray]
    unreadable: dict[str, str]


def open_for_checks(path: Path, attributes: dict[str, Any], complete: np.ndarray) -> Opened:
    """Open a store whose manifest is in order.

    Args:
        path: its directory.
        attributes: the manifest.
        complete: which images are complete, shape (image,).

    Raises:
        StoreError: if metadata make no sense to zarr.
    """
    with codec_errors_named():
        root = read_root(path)
        group = store.open_group(root, mode="r")
        arrays = {
            variable.name: store.array(group, variable.name) for variable in schema.BUILD_VARIABLES
        }
        metadata = root.arrays[schema.LATENTS.name]
    coordinates, unreadable = {}, {}
    for variable in _COORDINATES:
        try:
            with codec_errors_named():
                coordinates[variable.name] = np.asarray(arrays[variable.name][:])
        except StoreError as error:
            unreadable[variable.name] = str(error)
    return Opened(path, attributes, metadata, group, arrays, complete, coordinates, unreadable)


def read_states(opened: Opened, image: int) -> np.ndarray:
    """One image's states, shape (step, channel, height, width).

    Raises:
        ValueError: if its shard is damaged.
    """
    (states,) = shards.read_states(opened.path, opened.metadata, [image])
    return np.asarray(states)

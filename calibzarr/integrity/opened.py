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
from calibzarr.storage.manifest import Root

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
        root: what its root says.
        group: the root group.
        arrays: of the build, by name.
        complete: which images are complete, shape (image,).
        coordinates: those that can be read, by name.
        unreadable: why the others cannot, by name.
    """

    root: Root
    group: zarr.Group
    arrays: dict[str, zarr.Array[Any]]
    complete: np.ndarray
    coordinates: dict[str, np.ndarray]
    unreadable: dict[str, str]

    def read(self, name: str) -> np.ndarray:
        """A variable's values.

        Raises:
            StoreError: if they cannot be read.
        """
        with codec_errors_named():
            return np.asarray(store.array(self.group, name)[:])

    @property
    def path(self) -> Path:
        """Directory of the store."""
        return self.root.path

    @property
    def num_states(self) -> int:
        """States of each image."""
        return int(self.root.arrays[schema.LATENTS.name]["shape"][1])

    @property
    def attributes(self) -> dict[str, Any]:
        """The manifest."""
        return self.root.attributes


def open_for_checks(root: Root, complete: np.ndarray) -> Opened:
    """Open a store whose manifest is in order.

    Args:
        root: what its root says.
        complete: which images are complete, shape (image,).

    Raises:
        StoreError: if metadata make no sense to zarr.
    """
    with codec_errors_named():
        group = store.open_group(root, mode="r")
        arrays = {
            variable.name: store.array(group, variable.name) for variable in schema.BUILD_VARIABLES
        }
    coordinates, unreadable = {}, {}
    for variable in _COORDINATES:
        try:
            with codec_errors_named():
                coordinates[variable.name] = np.asarray(arrays[variable.name][:])
        except StoreError as error:
            unreadable[variable.name] = str(error)
    return Opened(root, group, arrays, complete, coordinates, unreadable)


def read_states(opened: Opened, image: int) -> np.ndarray:
    """One image's states, shape (step, channel, height, width).

    Raises:
        ValueError: if its shard is damaged.
    """
    metadata = opened.root.arrays[schema.LATENTS.name]
    (states,) = shards.read_states(opened.path, metadata, [image])
    return np.asarray(states)

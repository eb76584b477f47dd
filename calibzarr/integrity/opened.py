"""A store as its checks see it: whatever can be read is read, and the rest is told."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from calibzarr.errors import StoreError
from calibzarr.storage import schema, shards, store
from calibzarr.storage.manifest import Root
from calibzarr.storage.variable import Variable


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
    """A store whose root is in order.

    Attributes:
        root: what it says.
        complete: which images are complete, shape (image,).
        coordinates: those that can be read, by name.
        unreadable: why the others cannot, by name.
    """

    root: Root
    complete: np.ndarray
    coordinates: dict[str, np.ndarray] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    @cached_property
    def _group(self) -> zarr.Group:
        return store.open_group(self.root, mode="r")

    def read(self, name: str, selection: int | slice = slice(None)) -> np.ndarray:
        """A variable's values.

        Raises:
            StoreError: if they cannot be read.
        """
        with codec_errors_named():
            return np.asarray(store.array(self._group, name)[selection])

    def states(self, image: int) -> np.ndarray:
        """One image's states, shape (step, channel, height, width).

        Raises:
            StoreError: if its shard is damaged.
        """
        with codec_errors_named():
            metadata = self.root.arrays[schema.LATENTS.name]
            return np.asarray(shards.read_states(self.path, metadata, [image])[0])

    def file(self, variable: Variable, image: int) -> Path:
        """Where an image is of a variable of one file an image."""
        return self.path / variable.name / variable.key(image)

    @property
    def path(self) -> Path:
        """Directory of the store."""
        return self.root.path

    @property
    def attributes(self) -> dict[str, Any]:
        """The manifest."""
        return self.root.attributes


def open_for_checks(root: Root) -> Opened:
    """Open a store whose root is in order, and read what coordinates can be."""
    opened = Opened(root, store.completed(root.path, root.num_images))
    for name in (variable.name for variable in schema.BUILD_VARIABLES if variable.coordinate):
        try:
            opened.coordinates[name] = opened.read(name)
        except StoreError as error:
            opened.unreadable[name] = str(error)
    return opened

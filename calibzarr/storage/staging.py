"""What is added to a finished store: replaced whole or not at all.

New arrays are written beside the store's own, in a directory of the store that gets its name when
it is complete. Installing it first takes the old ones out of the consolidated metadata, then moves
the arrays, then lists them: no reader ever sees a mixture. A kill in between leaves the directory,
and :func:`install` goes on with it.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from calibzarr.storage import arrays, durable, manifest, schema, store
from calibzarr.storage.variable import Addition


def write(
    path: Path,
    addition: Addition,
    sizes: Mapping[str, int],
    values: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
) -> None:
    """Put variables into a store, in the place of any that it has.

    A kill in between leaves a store without them.

    Args:
        path: directory of the store.
        addition: what they are.
        sizes: of every dimension that they have.
        values: of every variable, by name.
        about: value of their attribute, JSON types only.

    Raises:
        OSError: if they cannot be written.
    """
    with durable.locked(path):  # one at a time
        with stage(path, addition, sizes, about) as group:
            for name, array in values.items():
                store.array(group, name)[:] = array
        done = _install(path, addition)
    shutil.rmtree(done)


@contextmanager
def stage(
    path: Path, addition: Addition, sizes: Mapping[str, int], about: Mapping[str, Any]
) -> Iterator[zarr.Group]:
    """Give arrays to fill that are ready for :func:`install` when the block ends.

    Args:
        path: directory of the store.
        addition: what they are.
        sizes: of every dimension that they have.
        about: value of their attribute, JSON types only.

    Raises:
        OSError: if they cannot be written; what the store has stays.
    """
    staged = path / addition.staged
    shutil.rmtree(staged, ignore_errors=True)  # a killed process left it
    with durable.new_directory(staged) as directory:
        group = zarr.create_group(
            durable.DurableStore(directory),
            zarr_format=3,
            attributes={addition.attribute: dict(about)},
        )
        arrays.create(group, addition.variables, sizes)
        yield group


def install(path: Path, addition: Addition) -> bool:
    """Move what is staged into its place, also after a kill; return whether anything was."""
    if not (path / addition.staged).exists():
        return False
    with durable.locked(path):
        if not (path / addition.staged).exists():  # another process was faster
            return False
        done = _install(path, addition)
    shutil.rmtree(done)
    return True


def _install(path: Path, addition: Addition) -> Path:
    """Install under the store's lock; return the emptied directory, to be removed."""
    staged = path / addition.staged
    attributes = json.loads((staged / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    num_images = manifest.read_root(path).num_images
    others = [name for name in unpublish(path, addition) if not _depends(path, addition, name)]
    for name in addition.names:
        if (staged / name).exists():
            shutil.rmtree(path / name, ignore_errors=True)
            (staged / name).rename(path / name)
    durable.flush_directory(path)
    # The store may have grown since these were written.
    moved = store.open_group(path, consolidated=False)
    names = [name for name in addition.names if (path / name).exists()]  # but for optional ones
    store.resize_images({name: store.array(moved, name) for name in names}, num_images)
    manifest.publish(path, attributes, [*others, *names])
    done = durable.partial_path(staged)  # half removed, it is a leftover like any other
    staged.rename(done)
    return done


def _depends(path: Path, addition: Addition, name: str) -> bool:
    """Whether a variable that the format does not know is along dimensions of an addition.

    Such are the ``recommended_`` ones of version 0.1: they are not of what is new.
    """
    dimensions = manifest.read_root(path).arrays[name].get("dimension_names") or []
    added = {dim for variable in addition.variables for dim in variable.dims} - {"image", "step"}
    return name not in schema.NAMES and not added.isdisjoint(dimensions)


def unpublish(path: Path, addition: Addition) -> list[str]:
    """Let readers see an addition no more, while its files stay; return what is still listed.

    Whoever calls this holds the store's lock, ``durable.locked(path)``.
    """
    others = [name for name in manifest.read_root(path).arrays if name not in addition.names]
    manifest.publish(path, {addition.attribute: None}, others)
    return others

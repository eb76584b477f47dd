"""Which files of a store are not what was written, by its index."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from calibzarr.errors import StoreError
from calibzarr.storage import commit, copies, schema
from calibzarr.storage.manifest import Root
from calibzarr.storage.variable import Variable

_ASIDE = "damaged"  # a folder of ``latents``


def expected(root: Root) -> dict[str, set[str | None]]:
    """What SHA-256 each covered file may have; None: it may be missing.

    Raises:
        StoreError: if the index, or the plan of an interrupted change, is damaged.
    """
    path, plan = root.path, None
    with suppress(FileNotFoundError):
        plan = commit.read_plan(path)
    if plan is None:
        index = copies.read_index(path, root.attributes[copies.ATTRIBUTE]["index"])
        return {file: {sha} for file, sha in index.items()}
    before = {} if plan["before"] is None else _before(path, plan)
    may: dict[str, set[str | None]] = {file: {sha} for file, sha in before.items()}
    for file, sha in plan["files"].items():
        may[file] = {before.get(file), sha}
        staged = path / commit.NEXT / file
        if staged.exists() and copies.hash_file(staged) != sha:
            raise StoreError(f"{commit.NEXT}/{file} is not what was written")
    return may


def _before(path: Path, plan: Mapping[str, Any]) -> dict[str, str]:
    """The index that a change began with, or the new one where that is gone already."""
    with suppress(StoreError):
        return copies.read_index(path, plan["before"])
    (new,) = (file for file in plan["files"] if file.startswith(copies.index_file("")))
    return copies.read_index(path, new.rpartition(".")[2])


def differences(root: Root) -> dict[str, str]:
    """What is wrong with covered files, and with what lies beside shards and pictures, by file.

    Args:
        root: of a store with an index.

    Raises:
        StoreError: if the index, or the plan of an interrupted change, is damaged.
    """
    may = expected(root)
    found = copies.hashes(root.path, schema.NAMES)
    wrong = {}
    for file in sorted(may.keys() | found.keys()):
        if file not in may:
            wrong[file] = "is not in the index"
        elif found.get(file) not in may[file]:
            there = os.path.lexists(root.path / file)
            wrong[file] = "is not what was written" if there else "is missing"
    for variable in (schema.LATENTS, schema.DECODED):
        wrong |= {file: "is no file of an image" for file in _strange(root, variable)}
    return wrong


def _strange(root: Root, variable: Variable) -> Iterator[str]:
    """Entries beside the files of images."""
    allowed = {copies.ROOT, _ASIDE} if variable is schema.LATENTS else {copies.ROOT}
    for entry in sorted(os.scandir(root.path / variable.name), key=lambda entry: entry.name):
        if entry.name in allowed or entry.name.endswith(".partial"):
            continue
        image = variable.index(entry.name)
        if image is None or image >= root.num_images or not entry.is_file():
            yield f"{variable.name}/{entry.name}"


def copy_errors(root: Root) -> list[str]:
    """What is wrong with the copy of a root with an index, in words."""
    if (root.path / commit.NEXT).exists():
        return []  # one of them may be the new one already
    try:
        copy = copies.parse(root.path / copies.ROOT_COPY)
    except FileNotFoundError:
        return [f"{copies.ROOT_COPY}, its copy, is missing"]
    except StoreError:
        return [f"{copies.ROOT_COPY}, its copy, cannot be read"]
    if not copies.is_whole(copy):
        return [f"{copies.ROOT_COPY}, its copy, is not what was written"]
    if copies.digest(copy) != root.attributes[copies.ATTRIBUTE]["digest"]:
        newer = copies.generation(copy) > root.attributes[copies.ATTRIBUTE]["generation"]
        return [f"it is not what its copy says, which is {'newer' if newer else 'older'}"]
    return []


def users_own(root: Root) -> list[str]:
    """Variables that are none of calibzarr's: they are nobody's business but the user's."""
    listed = {name for name in root.arrays if "/" not in name and name != copies.FOLDER}
    folders = {file.parent.name for file in root.path.glob("*/zarr.json")}
    return sorted((listed | folders) - schema.NAMES - {copies.FOLDER})

"""Which files of a store are not what was written."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from calibzarr.errors import StoreError
from calibzarr.storage import adoption, commit, copies, schema
from calibzarr.storage.manifest import FILE, Root

_ASIDE = "damaged"  # a folder of ``latents``
_OF_COPIES = {copies.GROUP, copies.COORDINATES, copies.ROOT_COPY, commit.NEXT}


def expected(root: Root) -> dict[str, set[str | None]]:
    """What SHA-256 each covered file may have; None: it may be missing.

    Raises:
        StoreError: if the index, or the plan of an interrupted change, is damaged.
    """
    path, name = root.path, root.attributes[copies.ATTRIBUTE]["index"]
    try:
        plan = commit.read_plan(path)
    except FileNotFoundError:
        return {file: {sha} for file, sha in copies.read_index(path, name).items()}
    before = {}
    for before_or_after in (plan["before"], name):  # the first is gone already, if need be
        with suppress(StoreError):
            before = copies.read_index(path, str(before_or_after))
            break
    may: dict[str, set[str | None]] = {file: {sha} for file, sha in before.items()}
    for file, sha in plan["files"].items():
        may[file] = {before.get(file), sha}
        staged = path / commit.NEXT / file
        if staged.exists() and copies.hash_file(staged) != sha:
            raise StoreError(f"{commit.NEXT}/{file} is not what was written")
    return may


def differences(root: Root) -> dict[str, str]:
    """What is wrong with covered files, and what lies beside those of images, by file or variable.

    Raises:
        StoreError: if the index, or the plan of an interrupted change, is damaged.
    """
    wrong = {}
    if root.indexed:
        may = expected(root)
        found = {file: root.path / file for file in copies.covered_files(root.path, schema.NAMES)}
        for file in sorted(may.keys() | found.keys()):
            if file not in may:
                wrong[file] = f"{file} is not in the index"
            elif (copies.hash_file(found[file]) if file in found else None) not in may[file]:
                is_there = os.path.lexists(root.path / file)
                wrong[file] = f"{file} is {'not what was written' if is_there else 'missing'}"
    else:
        wrong = adoption.contradictions(root)
    return wrong | {file: f"{file} is no file of a store" for file in _strange(root)}


def _strange(root: Root) -> Iterator[str]:
    """Entries beside the files of images and the copies."""
    for variable in (schema.LATENTS, schema.DECODED):
        for name, is_file in _entries(root.path / variable.name):
            aside = name == _ASIDE and variable is schema.LATENTS and not is_file
            image = variable.index(name)
            of_image = is_file and image is not None and image < root.num_images
            if not (of_image or aside or name == FILE):
                yield f"{variable.name}/{name}"
    if root.indexed and not os.path.lexists(root.path / commit.NEXT):
        known = _OF_COPIES | {f"{copies.INDEX}{root.attributes[copies.ATTRIBUTE]['index']}"}
        names = (f"{copies.FOLDER}/{name}" for name, _ in _entries(root.path / copies.FOLDER))
        yield from (file for file in names if file not in known)


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Names in a folder, and whether they are of regular files."""
    if not folder.is_dir():
        return []
    return sorted(
        (entry.name, entry.is_file())
        for entry in os.scandir(folder)
        if not entry.name.endswith(".partial")
    )


def copy_errors(root: Root) -> list[str]:
    """What is wrong with the copy of a root, in words."""
    if not root.indexed or (root.path / commit.NEXT).exists():
        return []  # one of them may be the new one already
    try:
        copy = copies.parse(root.path / copies.ROOT_COPY)
    except FileNotFoundError:
        return [f"{copies.ROOT_COPY}, its copy, is missing"]
    except StoreError:
        return [f"{copies.ROOT_COPY}, its copy, cannot be read"]
    generation = copies.generation(copy)
    if not generation:
        return [f"{copies.ROOT_COPY}, its copy, is not what was written"]
    if copies.digest(copy) != root.attributes[copies.ATTRIBUTE]["digest"]:
        newer = generation > root.attributes[copies.ATTRIBUTE]["generation"]
        return [f"it is not what its copy says, which is {'newer' if newer else 'older'}"]
    return []


def users_own(root: Root) -> list[str]:
    """What is none of calibzarr's in a store: it is nobody's business but the user's."""
    listed = {name for name in root.arrays if "/" not in name}
    found = {name for name, _ in _entries(root.path) if not name.endswith(".checkpoint")}
    return sorted((listed | found) - schema.NAMES - {copies.FOLDER, FILE})

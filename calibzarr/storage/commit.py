"""Changes of what is covered: whole or not at all, and known to the index.

A change is written whole into ``copies/next.partial``: new files, new index, new root, and a plan.
Renaming that to ``copies/next`` is the commit; then every file is moved into its place. A kill in
between leaves the directory, and whoever takes the store's lock next goes on with it. Where old and
new chunks must not mix, the variables are unlisted first: no reader ever sees a mixture.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from calibzarr.storage import adoption, arrays, copies, durable, schema
from calibzarr.storage.manifest import Root, check_identity, consolidated, read_root
from calibzarr.storage.variable import Addition, Variable

NEXT = f"{copies.FOLDER}/next"
_PLAN = "plan.json"
_LAST = (copies.ROOT, copies.ROOT_COPY)


class _Overlay(durable.DurableStore):
    """A store to whom what is written goes beside, and is read from there first."""

    def __init__(self, directory: Path, below: Path) -> None:
        super().__init__(directory)
        self._below = below

    def with_read_only(
        self,
        read_only: bool = False,  # noqa: ARG002, FBT001, FBT002 - as zarr has it
    ) -> "_Overlay":
        return _Overlay(self.root, self._below)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        found = await super().get(key, prototype, byte_range)
        if found is not None:
            return found
        return await durable.DurableStore(self._below).get(key, prototype, byte_range)


@dataclass
class Change:
    """A change in the making, under the store's lock.

    Attributes:
        root: of the store, as it was.
        directory: where new files are written, named as in the store.
        attributes: of the root, to set; one that is None is removed.
        replaced: variables whose old files all go.
        hidden: attributes that tell of these.
        unlisted: variables that leave the root, while their files stay.
    """

    root: Root
    directory: Path
    attributes: dict[str, Any] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    unlisted: set[str] = field(default_factory=set)

    def create(self, variables: Sequence[Variable], sizes: Mapping[str, int]) -> zarr.Group:
        """New arrays in the place of any that there are, to fill."""
        group = zarr.create_group(durable.DurableStore(self.directory), zarr_format=3)
        arrays.create(group, variables, sizes)
        self.replaced |= {variable.name for variable in variables}
        return group

    def group(self) -> zarr.Group:
        """The store's arrays, to change."""
        overlay = _Overlay(self.directory, self.root.path)
        return zarr.open_group(overlay, mode="r+", zarr_format=3, use_consolidated=False)

    def remove(self, addition: Addition) -> None:
        """Let an addition go, and a user's own variables along its dimensions out of the root.

        Such are the ``recommended_`` ones of 0.1, too: they are not of what is new.
        """
        self.replaced |= set(addition.names)
        self.hidden.add(addition.attribute)
        self.attributes.setdefault(addition.attribute, None)
        along = {dim for variable in addition.variables for dim in variable.dims}
        along -= {"image", "step"}
        self.unlisted |= {
            name
            for name, metadata in self.root.arrays.items()
            if name not in schema.NAMES and along & {*(metadata.get("dimension_names") or ())}
        }

    def _staged(self) -> dict[str, str]:
        files = (file for file in self.directory.rglob("*") if file.is_file())
        return {
            file.relative_to(self.directory).as_posix(): copies.sha256(file.read_bytes())
            for file in files
            if file != self.directory / copies.ROOT
        }

    def finish(self, index: dict[str, str]) -> None:
        """Write the new root, index, copies and the plan, from the index of before."""
        old = json.loads(self.root.content)
        staged = self._staged()
        gone = {file for file in index if file.partition("/")[0] in self.replaced}
        gone |= set(copies.covered_files(self.root.path, self.replaced)) - {copies.GROUP}
        if not self.root.indexed:
            gone |= {f"{copies.OLD_COPIES}/{name}" for name in ("root.json", "coordinates.json")}
        gone -= {*staged, copies.COORDINATES}
        new = {file: sha for file, sha in index.items() if file not in gone}
        new |= {file: sha for file, sha in staged.items() if file.partition("/")[0] in schema.NAMES}
        if any(map(copies.is_copied, staged)) or copies.COORDINATES not in index:
            content = self._coordinates(new)
            new[copies.COORDINATES] = staged[copies.COORDINATES] = self._write(
                copies.COORDINATES, content
            )
        if copies.GROUP not in index:
            new[copies.GROUP] = staged[copies.GROUP] = self._write(
                copies.GROUP, copies.GROUP_CONTENT
            )
        content = copies.index_content(new)
        name = copies.sha256(content)
        staged[f"{copies.INDEX}{name}"] = self._write(f"{copies.INDEX}{name}", content)
        root = self._root(old, name, [file for file in staged if file.endswith("/zarr.json")])
        for file in _LAST:
            staged[file] = self._write(file, copies.as_bytes(root))
        plan = {
            "files": {**dict.fromkeys(sorted(gone)), **staged},
            "before": self.root.attributes.get(copies.ATTRIBUTE, {}).get("index"),
            "arrays": sorted((self.replaced | self.unlisted) & self.root.arrays.keys()),
            "attributes": sorted(self.hidden),
        }
        sealed = {"sha256": copies.sha256(json.dumps(plan).encode()), "plan": plan}
        self._write(_PLAN, json.dumps(sealed).encode())

    def _write(self, file: str, content: bytes) -> str:
        target = self.directory / file
        target.parent.mkdir(exist_ok=True)
        with durable.new_file(target) as stream:
            stream.write(content)
        return copies.sha256(content)

    def _coordinates(self, index: Mapping[str, str]) -> bytes:
        """The copy of all coordinates, as they will be."""
        files = {}
        for file, sha in index.items():
            if not copies.is_copied(file):
                continue
            staged = self.directory / file
            files[file] = durable.read(staged if staged.exists() else self.root.path / file)
            if copies.sha256(files[file]) != sha:
                raise copies.damaged(self.root.path, f"{file} is not what was written")
        return copies.coordinates_content(files)

    def _root(self, old: dict[str, Any], index: str, changed: list[str]) -> dict[str, Any]:
        """The new root. Of what was not rewritten it says what it said before."""
        attributes = {**old["attributes"], **self.attributes}
        gone = {name for name, value in self.attributes.items() if value is None}
        leaving = self.replaced | self.unlisted
        listed = {name: at for name, at in self.root.arrays.items() if name not in leaving}
        for file in changed:
            if file != copies.GROUP:
                listed[file.partition("/")[0]] = json.loads((self.directory / file).read_bytes())
        root = {
            **old,
            "attributes": {name: at for name, at in attributes.items() if name not in gone},
            "consolidated_metadata": consolidated(dict(sorted(listed.items()))),
        }
        return copies.sealed(root, copies.generation(old) + 1, index)


@contextmanager
def change(store: Path | Root) -> Iterator[Change]:
    """Change a store, under its lock; what the block did is done when it ends, or none of it.

    Args:
        store: its directory, or what its root said: then it must be the same store still.

    Raises:
        StoreError: if it is damaged, or of 0.1 and contradicts itself: nothing unchecked is
            published.
        OSError: if it cannot be written; what the store has stays.
    """
    path = store.path if isinstance(store, Root) else store
    with durable.locked(path):
        if isinstance(store, Root):
            check_identity(store)
        go_on(path)
        root = read_root(path)
        integrity = root.attributes.get(copies.ATTRIBUTE)
        known = copies.read_index(path, integrity["index"]) if integrity else adoption.index(root)
        with changing(root, known) as made:
            yield made


@contextmanager
def changing(root: Root, index: dict[str, str]) -> Iterator[Change]:
    """The same, for who holds the lock and knows what the index is to say of files as they are."""
    (root.path / copies.FOLDER).mkdir(exist_ok=True)
    with durable.new_directory(root.path / NEXT) as directory:
        made = Change(root, directory)
        yield made
        made.finish(index)
    _apply(root.path, read_plan(root.path))


def update_attributes(store: Path | Root, attributes: Mapping[str, Any]) -> None:
    """Set root attributes; one that is None is removed."""
    with change(store) as made:
        made.attributes.update(attributes)


def seal(path: Path) -> None:
    """Make the root, index and copies of a store that is just written, and nobody's yet."""
    root = json.loads((path / copies.ROOT).read_bytes())
    root.pop("consolidated_metadata", None)
    made = Change(Root(path, root["attributes"], {}, copies.as_bytes(root)), path)
    made.finish({})
    (path / _PLAN).unlink()


def read_plan(path: Path) -> dict[str, Any]:
    """The plan of a change that is committed and not yet done.

    Raises:
        FileNotFoundError: if there is none.
        StoreError: if it is damaged.
    """
    sealed = copies.parse(path / NEXT / _PLAN)
    plan = sealed.get("plan")
    if sealed.get("sha256") != copies.sha256(json.dumps(plan).encode()):
        raise copies.damaged(path, f"{NEXT}/{_PLAN} is not what was written")
    return dict(plan)  # type: ignore[arg-type]


def recover(path: Path) -> bool:
    """Go on with a change that a kill left half done, if there is one; return whether."""
    if not (path / NEXT).exists():
        return False
    with durable.locked(path):
        return go_on(path)


def go_on(path: Path) -> bool:
    """The same, for who holds the lock.

    Raises:
        StoreError: if what is to be moved is damaged; nothing is changed.
    """
    if not (path / NEXT).exists():
        return False
    try:
        plan = read_plan(path)
    except FileNotFoundError:
        raise copies.damaged(path, f"{NEXT} has no {_PLAN}") from None
    for file, sha in plan["files"].items():
        staged = path / NEXT / file
        if sha is not None and sha != copies.hash_file(staged if staged.exists() else path / file):
            raise copies.damaged(path, f"a change was interrupted, and its {file} is damaged")
    _apply(path, plan)
    return True


def _apply(path: Path, plan: Mapping[str, Any]) -> None:
    """Move everything into its place; the root last but for its copy."""
    staged, files = path / NEXT, plan["files"]
    if plan["arrays"] and (staged / copies.ROOT).exists():
        with durable.new_file(path / copies.ROOT) as stream:
            stream.write(copies.as_bytes(_unlisted(staged / copies.ROOT, plan)))
    changed = {path / file for file in files if file not in _LAST}
    for file, sha in files.items():
        if file in _LAST:
            continue
        target = path / file
        if sha is None:
            with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                target.unlink()
        else:
            _move(staged / file, target)
    for directory in {file.parent for file in changed}:
        with suppress(FileNotFoundError):
            durable.flush_directory(directory)
    for file in _LAST:
        _move(staged / file, path / file)
        durable.flush_directory((path / file).parent)
    for old in (path / copies.FOLDER).glob("index.*"):
        if f"{copies.FOLDER}/{old.name}" not in files:
            old.unlink()
    for directory in {path / file.rpartition("/")[0] for file, sha in files.items() if sha is None}:
        with suppress(OSError):  # it holds something else
            directory.rmdir()
    done = durable.partial_path(staged)  # half removed, it is a leftover like any other
    staged.rename(done)
    shutil.rmtree(done)


def _move(source: Path, target: Path) -> None:
    """Move a file, unless that is done already."""
    if source.exists():
        target.parent.mkdir(exist_ok=True)
        os.replace(source, target)


def _unlisted(file: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The new root without the variables whose old and new chunks must not mix."""
    root = json.loads(file.read_bytes())
    for name in plan["arrays"]:
        root["consolidated_metadata"]["metadata"].pop(name, None)
    for name in plan["attributes"]:
        root["attributes"].pop(name, None)
    integrity = root["attributes"][copies.ATTRIBUTE]
    return copies.sealed(root, integrity["generation"], integrity["index"])

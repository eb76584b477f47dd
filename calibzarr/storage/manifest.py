"""The root's metadata: what readers see of a store; refused where it is not what was written."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from zarr.core.metadata.v3 import ArrayV3Metadata

from calibzarr.errors import Call, StoreError
from calibzarr.storage import copies, durable, objects, schema

FILE = "zarr.json"


_MOST = 10**6  # images, layers and such of a store that carries no digest
_LIBRARIES = "libraries"
_SAMPLER = "https://github.com/argmaxinc/DiffusionKit"
_TYPES: dict[str, tuple[type, ...]] = {  # of what is used of a manifest that has no digest
    **dict.fromkeys(("num_images", "num_steps", "image_size"), (int,)),
    **dict.fromkeys(("model", "sampler", "noise", "schedule"), (str, type(None))),
    **dict.fromkeys(("seed", "batch_size", "n_completed"), (int, type(None))),
    **dict.fromkeys(("cfg_weight", schema.GUIDANCE), (int, float, type(None))),
    "latent_dtype": (str,),
    **dict.fromkeys(("prompts_sha256", "tokens_sha256"), (str,)),
    "prompt_source": (str, type(None)),
    _LIBRARIES: (dict,),
    schema.ACTIVATIONS: (dict,),
    schema.SENSITIVITY: (dict,),
}


@dataclass(frozen=True)
class Root:
    """What a store's root said at one moment.

    Attributes:
        path: directory of the store.
        attributes: the manifest.
        arrays: metadata of the variables that readers see, by name.
        content: the file that says so.
        identity: device and number of the directory.
    """

    path: Path
    attributes: dict[str, Any]
    arrays: dict[str, Any]
    content: bytes
    identity: tuple[int, int] = (0, 0)

    @property
    def num_images(self) -> int:
        """Images of the store, complete or not."""
        return int(self.arrays[schema.LATENTS.name]["shape"][0])

    @property
    def indexed(self) -> bool:
        """Whether it names an index of its files; those of 0.1 do not."""
        return copies.ATTRIBUTE in self.attributes


def read_root(path: Path) -> Root:
    """Read the metadata of a store's root, in one read.

    Raises:
        FileNotFoundError: if nothing is at ``path``.
        StoreError: if it is no calibzarr store, one of a format that this version cannot read, or
            its root is not what was written.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no store at {path}{objects.near(path)}")
    if not path.is_dir():
        raise StoreError(f"{path} is a file; a calibzarr store is a directory")
    identity = identity_of(path)
    try:
        content = durable.read(path / FILE, copies.MOST_BYTES)
        return of_content(path, content, identity)
    except (OSError, ValueError) as error:
        if isinstance(error, NewerFormat) or not looks_like_a_store(path):
            raise _no_store(path, error) from None
        raise copies.damaged(path, f"its {FILE} {_reason(error)}") from None


class NewerFormat(StoreError):
    """A store is of a format that this version cannot read."""


def of_content(path: Path, content: bytes, identity: tuple[int, int] = (0, 0)) -> Root:
    """What the root of the store at ``path`` says, if this is its file.

    Raises:
        NewerFormat: if it is of a format that this version cannot read.
        ValueError: if it is no root of a store, or not what was written; says in what.
    """
    metadata = copies.parsed(content)
    attributes, listed = metadata.get("attributes"), metadata.get("consolidated_metadata")
    listed = listed.get("metadata") if isinstance(listed, dict) else None
    if not isinstance(attributes, dict):
        raise ValueError("has no attributes")
    if attributes.get("format") != schema.FORMAT:
        raise ValueError(f"says format {attributes.get('format')!r}, not {schema.FORMAT!r}")
    number = attributes.get("format_version")
    whole = copies.generation(metadata) > 0
    if number != schema.FORMAT_VERSION and (whole or not _contradicted(path, number)):
        raise NewerFormat(
            f"{path} has format version {number!r}; this calibzarr reads version "
            f"{schema.FORMAT_VERSION}. Upgrade calibzarr to open it"
        )
    if not isinstance(listed, dict):
        raise ValueError("lists no arrays")
    if not whole:
        if os.path.lexists(path / copies.ROOT_COPY):
            raise ValueError("is not what was written")
        attributes.pop(copies.ATTRIBUTE, None)  # by a program that copied what it read
        _check_types(attributes, listed)
    for variable in schema.build_variables(attributes):
        if variable.name not in listed or not (path / variable.name).is_dir():
            raise ValueError(f"lists no variable {variable.name}, or that is not there")
    return Root(path, attributes, dict(listed), content, identity)


def looks_like_a_store(path: Path) -> bool:
    """Whether a directory holds variables of a build, whatever else is wrong with it."""
    return any((path / variable.name).is_dir() for variable in schema.BUILD_VARIABLES)


def _contradicted(path: Path, number: Any) -> bool:
    """Whether the root's copy says another format version."""
    for name in (copies.ROOT_COPY, f"{copies.OLD_COPIES}/root.json"):
        with suppress(OSError, StoreError):
            copy = copies.parse(path / name)
            attributes = copy.get("content", copy).get("attributes", {})
            return bool(attributes.get("format_version") != number)
    return False


def _no_store(path: Path, error: Exception) -> StoreError:
    if isinstance(error, NewerFormat):
        return error
    return StoreError(f"{path} is not a calibzarr store: its {FILE} {_reason(error)}")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is missing"
    if isinstance(error, OSError):
        return str(error.strerror)
    return str(error)


def _check_types(attributes: Mapping[str, Any], listed: Mapping[str, Any]) -> None:
    """Check the root of a store of 0.1, which carries no digest.

    Raises:
        ValueError: if what is used of it is of another kind.
    """
    for name, types in _TYPES.items():
        value = attributes.get(name)
        wrong = isinstance(value, bool) or not isinstance(value, types)
        if name in attributes and (wrong or (isinstance(value, int) and abs(value) >= 2**63)):
            raise ValueError(f"says {name} {str(value)[:60]!r}")
    lengths: dict[str, int] = {}
    for variable in schema.VARIABLES:
        if variable.name not in listed:
            continue
        metadata = listed[variable.name]
        shape = metadata.get("shape") if isinstance(metadata, dict) else None
        if not (
            isinstance(shape, list)
            and len(shape) == len(variable.dims)
            and all(type(size) is int and 0 <= size <= _MOST for size in shape)
        ):
            raise ValueError(f"says shape {str(shape)[:60]} of {variable.name}")
        for dim, size in zip(variable.dims, shape, strict=True):
            if lengths.setdefault(dim, size) != size:
                raise ValueError(f"says that {variable.name} has {size} {dim}, not {lengths[dim]}")
        try:
            ArrayV3Metadata.from_dict(dict(metadata))
        except Exception as error:
            raise ValueError(f"describes {variable.name} so that zarr fails: {error}") from error


def identity_of(path: Path) -> tuple[int, int]:
    """Device and number of a directory, which stay when it is renamed."""
    found = path.stat()
    return found.st_dev, found.st_ino


def check_identity(root: Root) -> None:
    """Check that a store is where it was when its root was read.

    Raises:
        StoreError: if it was moved or removed, or another is in its place.
    """
    try:
        same = identity_of(root.path) == root.identity
    except FileNotFoundError:
        same = False
    if not same:
        raise StoreError(
            f"{root.path} was moved or removed while it was in use; what was written before is "
            "where it went, and nothing more was"
        )


def as_root(store: Path | Root) -> Root:
    """What a store's root says now, or said when it was read."""
    return store if isinstance(store, Root) else read_root(store)


def consolidated(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the root's file that lists arrays, by their metadata."""
    return {"kind": "inline", "must_understand": False, "metadata": dict(arrays)}


def prompts_sha256(prompts: Sequence[str]) -> str:
    """SHA-256 of the prompts as UTF-8, each followed by a zero byte, in hexadecimal."""
    return hashlib.sha256(b"".join(p.encode() + b"\0" for p in prompts)).hexdigest()


def fingerprint(attributes: Mapping[str, Any], prompts: Sequence[str], seeds: Sequence[int]) -> str:
    """SHA-256 of all that decides what the states of a store are, in hexadecimal."""
    decisive = {name: attributes.get(name) for name in (*schema.FINGERPRINT, *schema.FORMULAS)}
    if schema.GUIDANCE in attributes:  # older stores keep their fingerprints
        decisive[schema.GUIDANCE] = attributes[schema.GUIDANCE]
    content = {**decisive, "prompts": list(prompts), "seeds": list(seeds)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_known(path: Path, manifest: Mapping[str, Any]) -> None:
    """Check that a manifest says what a replay needs; that of an imported store may not.

    Raises:
        StoreError: if not, naming what is not known.
    """
    for name in ("model", "cfg_weight"):
        if manifest.get(name) is None:
            raise StoreError(
                f"{path} was imported, and its {name} is not known; say it with: ",
                Call("import_legacy", ("DIR", path), {name: ...}),
            )


def refuse_runs(path: Path, manifest: Mapping[str, Any], wanted: str) -> None:
    """Check that a store is of a full-precision model, which alone is measured.

    Args:
        path: directory of the store.
        manifest: of it.
        wanted: name of the function to call of its reference.

    Raises:
        StoreError: if it is a run.
    """
    if schema.QUANTIZED in manifest:
        raise StoreError(
            f"{path} was made by a quantized model, and the full-precision one alone is measured; "
            "give the store that it is compared with: ",
            Call(wanted, (manifest[schema.REFERENCE]["path"],)),
        )


def made_by(libraries: Iterable[str], moment: str = "created") -> dict[str, Any]:
    """What made something, and when.

    Args:
        libraries: names of the packages whose versions may matter, where they are installed.
        moment: name for the time, ISO 8601 in UTC.
    """
    return {
        "libraries": {name: number for name in libraries if (number := _version(name))},
        moment: datetime.now(UTC).isoformat(timespec="seconds"),
    }


def about_new_store(
    libraries: Iterable[str],
    model: str | None,
    repository: str | None = None,
    licence: str | None = None,
) -> dict[str, Any]:
    """What a new store is made by, and what programs show of it that know no calibzarr.

    Args:
        libraries: of :func:`made_by`.
        model: its name, where it is known.
        repository: of the model on the Hugging Face Hub, where there is one.
        licence: of the model's weights, where it is known.
    """
    made = made_by(libraries)
    return {
        **made,
        "Conventions": "CF-1.11",
        "title": f"States of {model or 'a diffusion model'} at every step of its sampling",
        "history": f"{made['created']} calibzarr {version('calibzarr')}: begun",
        "references": f"https://huggingface.co/{repository}" if repository else _SAMPLER,
        **({} if licence is None else {"license": licence}),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

"""The root's metadata: what readers see of a store, read once and changed in one write."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from calibzarr.errors import Call, StoreError
from calibzarr.storage import backup, durable, schema

FILE = "zarr.json"


@dataclass(frozen=True)
class Root:
    """What a store's root said at one moment.

    Attributes:
        path: directory of the store.
        attributes: the manifest.
        arrays: metadata of the variables that readers see, by name.
        content: the file that says so.
    """

    path: Path
    attributes: dict[str, Any]
    arrays: dict[str, Any]
    content: bytes

    @property
    def num_images(self) -> int:
        """Images of the store, complete or not."""
        return int(self.arrays[schema.LATENTS.name]["shape"][0])


def read_root(path: Path) -> Root:
    """Read the metadata of a store's root, in one read.

    Raises:
        FileNotFoundError: if nothing is at ``path``.
        StoreError: if it is no calibzarr store, or one of a format that this version cannot read.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no store at {path}")
    if not path.is_dir():
        raise StoreError(f"{path} is a file; a calibzarr store is a directory")
    try:
        content = (path / FILE).read_bytes()
        metadata = json.loads(content)
    except FileNotFoundError:
        raise StoreError(f"{path} is not a calibzarr store: it has no {FILE}") from None
    except ValueError as error:
        raise StoreError(f"{path} is damaged: its {FILE} cannot be read ({error})") from None
    attributes = metadata.get("attributes") if isinstance(metadata, dict) else None
    if not isinstance(attributes, dict):
        raise StoreError(f"{path} is not a calibzarr store: its {FILE} has no attributes")
    _check_format(path, attributes)
    listed = (metadata.get("consolidated_metadata") or {}).get("metadata", {})
    for variable in schema.build_variables(attributes):
        if variable.name not in listed or not (path / variable.name).is_dir():
            raise StoreError(f"{path} is damaged: it lacks the variable {variable.name}")
    return Root(path, attributes, dict(listed), content)


def _check_format(path: Path, attributes: Mapping[str, Any]) -> None:
    if attributes.get("format") != schema.FORMAT:
        raise StoreError(
            f"{path} is not a calibzarr store: its format is {attributes.get('format')!r}, "
            f"not {schema.FORMAT!r}"
        )
    format_version = attributes.get("format_version")
    if format_version != schema.FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {format_version!r}; this calibzarr reads version "
            f"{schema.FORMAT_VERSION}. Upgrade calibzarr to open it"
        )


def as_root(store: Path | Root) -> Root:
    """What a store's root says now, or said when it was read."""
    return store if isinstance(store, Root) else read_root(store)


def publish(path: Path, attributes: Mapping[str, Any], names: Iterable[str] | None = None) -> None:
    """Let readers see these attributes, and exactly these arrays as they are now: in one write.

    Readers take both from the root's consolidated metadata; see ``stores/README.md``. Whoever
    calls this holds the store's lock, ``durable.locked(path)``.

    Args:
        path: directory of the store.
        attributes: root attributes to set; one that is None is removed.
        names: variables to list; None for those that are listed, as they were.
    """
    root = json.loads((path / FILE).read_text(encoding="utf-8"))
    kept = {**root.get("attributes", {}), **attributes}
    removed = {name for name, value in attributes.items() if value is None}
    root["attributes"] = {name: value for name, value in kept.items() if name not in removed}
    if names is not None:
        root["consolidated_metadata"] = consolidated(
            {
                name: json.loads((path / name / FILE).read_text(encoding="utf-8"))
                for name in sorted(names)
            }
        )
    write_root(path, root)


def consolidated(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the root's file that lists arrays, by their metadata."""
    return {"kind": "inline", "must_understand": False, "metadata": dict(arrays)}


def write_root(path: Path, root: Mapping[str, Any]) -> None:
    """Put other contents into the root's file, and then into its copy."""
    durable.write(path / FILE, json.dumps(root, indent=2).encode())
    backup.write_root(path, root)


def update_attributes(path: Path, attributes: Mapping[str, Any]) -> None:
    """Set root attributes, in one write."""
    with durable.locked(path):
        publish(path, attributes)


def prompts_sha256(prompts: Sequence[str]) -> str:
    """SHA-256 of the prompts as UTF-8, each followed by a zero byte, in hexadecimal."""
    return hashlib.sha256(b"".join(p.encode() + b"\0" for p in prompts)).hexdigest()


def fingerprint(attributes: Mapping[str, Any], prompts: Sequence[str], seeds: Sequence[int]) -> str:
    """SHA-256 of all that decides what the states of a store are, in hexadecimal."""
    decisive = {name: attributes.get(name) for name in (*schema.FINGERPRINT, *schema.FORMULAS)}
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


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

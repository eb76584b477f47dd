"""What is on the disk is what was written: hashes of all that is small, and second copies.

*Covered* is every file of calibzarr's own variables, but shards and pictures, and the root. The
root carries its own digest and generation, and names the index, a file of SHA-256 by file. Root and
coordinates have copies. All that is in ``copies``, a Zarr group of its own without arrays.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from calibzarr import strict_json
from calibzarr.errors import Call, StoreError
from calibzarr.storage import durable, schema

ROOT = "zarr.json"
FOLDER = "copies"
GROUP = f"{FOLDER}/zarr.json"
ROOT_COPY = f"{FOLDER}/root.json"
COORDINATES = f"{FOLDER}/coordinates.json"
ATTRIBUTE = "integrity"  # of the root: ``generation``, ``index`` and ``digest``
OLD_COPIES = "prompt/backup"  # of stores of 0.1
INDEX = f"{FOLDER}/index."  # and its own SHA-256

GROUP_CONTENT = json.dumps(
    {"zarr_format": 3, "node_type": "group", "attributes": {}}, indent=2
).encode()
MOST_BYTES = 2**24  # of a file that is parsed before it is known to be what was written
_BY_IMAGE = (schema.LATENTS.name, schema.DECODED.name)
_COPIED = tuple(
    variable.name
    for variable in (*schema.BUILD_VARIABLES, schema.QUANTIZATION_CONFIG)
    if variable.name not in _BY_IMAGE
)


def sha256(data: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def as_bytes(content: Any) -> bytes:
    """JSON as zarr writes it."""
    return json.dumps(content, indent=2).encode()


def parse(path: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: if there is none.
        StoreError: if it is no regular file of bounded size, or no JSON object; names it.
    """
    try:
        return parsed(durable.read(path, most_bytes))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"{path} is damaged: it {reason}") from None


def parsed(data: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: if it is none.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise ValueError("is no JSON object")
    return content


def digest(root: Mapping[str, Any]) -> str:
    """SHA-256 of what a root says, but for this digest and for what is the user's own."""
    attributes = {name: at for name, at in root["attributes"].items() if name in schema.ATTRIBUTES}
    integrity = {**attributes.get(ATTRIBUTE, {}), "digest": ""}
    listed = root.get("consolidated_metadata") or {}
    arrays = {name: at for name, at in listed.get("metadata", {}).items() if name in schema.NAMES}
    content = {
        **root,
        "attributes": {**attributes, ATTRIBUTE: integrity},
        "consolidated_metadata": {**listed, "metadata": arrays},
    }
    return sha256(json.dumps(content, sort_keys=True).encode())


def sealed(root: Mapping[str, Any], generation: int, index: str) -> dict[str, Any]:
    """A root that carries its generation, the name of its index, and its digest."""
    integrity = {"generation": generation, "index": index, "digest": ""}
    root = {**root, "attributes": {**strict_json.finite(root["attributes"]), ATTRIBUTE: integrity}}
    integrity["digest"] = digest(root)
    return root


def generation(root: Mapping[str, Any]) -> int:
    """How often a root was changed; 0 if it carries no digest, or not its own."""
    try:
        integrity = root["attributes"][ATTRIBUTE]
        number, index = integrity["generation"], integrity["index"]
        whole = isinstance(index, str) and integrity["digest"] == digest(root)
        return number if whole and type(number) is int else 0
    except (KeyError, TypeError, AttributeError):
        return 0


def index_content(files: Mapping[str, str]) -> bytes:
    """The index of files by their SHA-256."""
    return json.dumps({"files": dict(sorted(files.items()))}, indent=1).encode()


def read_index(path: Path, sha: str) -> dict[str, str]:
    """The index that a root names.

    Raises:
        StoreError: if it is not there, or damaged.
    """
    file = f"{INDEX}{sha}"
    if hash_file(path / file) != sha:
        raise damaged(path, f"{file}, the index of its files, is missing or damaged")
    return dict(json.loads(durable.read(path / file))["files"])


def damaged(path: Path, why: str) -> StoreError:
    """The error that tells of damage, and of the remedy."""
    return StoreError(f"{path} is damaged: {why}. Mend it with: ", Call("repair", (path,)))


def covered_files(path: Path, names: Iterable[str]) -> Iterator[str]:
    """Entries in the folders of variables that an index must know, and of ``copies``.

    Args:
        path: directory of the store.
        names: of variables.
    """
    yield from (file for file in (GROUP, COORDINATES) if os.path.lexists(path / file))
    for name in sorted(names):
        if not (path / name).is_dir():
            continue
        for entry in os.scandir(path / name):
            file = f"{name}/{entry.name}"
            of_image = name in _BY_IMAGE and entry.name != ROOT
            if not (of_image or entry.name.endswith(".partial") or file == OLD_COPIES):
                yield file


def hash_file(path: Path) -> str | None:
    """SHA-256 of a file; None where it is missing, no regular file, or cannot be read."""
    try:
        with os.fdopen(durable.open_regular(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def index_of_files(path: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of every covered file of some variables that can be read, as it is now."""
    hashes = {file: hash_file(path / file) for file in covered_files(path, names)}
    return {file: sha for file, sha in hashes.items() if sha is not None}


def is_copied(file: str) -> bool:
    """Whether a covered file has a copy in :data:`COORDINATES`."""
    name, _, key = file.partition("/")
    return name in _COPIED and key != ROOT


def coordinates_content(files: Mapping[str, bytes]) -> bytes:
    """The copy of the coordinates: chunks in base 64, by file."""
    content = {name: base64.b64encode(data).decode() for name, data in sorted(files.items())}
    return json.dumps(content, indent=1).encode()


def read_coordinates(path: Path) -> dict[str, bytes]:
    """Chunks of coordinates, by file, as far as there are copies that can be read."""
    try:
        content = parse(path / COORDINATES, 4 * MOST_BYTES)
        return {file: base64.b64decode(text) for file, text in content.items()}
    except (FileNotFoundError, StoreError, ValueError, TypeError):
        return {}


def read_old(path: Path, name: str) -> dict[str, Any]:
    """A copy that a store of 0.1 has in a folder of ``prompt``; empty where there is none whole."""
    try:
        copy = parse(path / OLD_COPIES / name)
        text = json.dumps(copy["content"], sort_keys=True)
        return dict(copy["content"]) if copy["sha256"] == sha256(text.encode()) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def old_attributes(path: Path, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What the copy of a root of 0.1 says otherwise than the root, of what states are."""
    copy = read_old(path, "root.json").get("attributes", {})
    names = [*schema.FINGERPRINT, *schema.FORMULAS, "num_images", "prompts_sha256"]
    names += [schema.ACTIVATIONS] * (schema.ACTIVATIONS not in attributes)
    return {
        name: copy[name] for name in names if copy.get(name) not in (None, attributes.get(name))
    }

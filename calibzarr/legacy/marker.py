"""The file that says in a directory which store it is an export of; old readers pass it over."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibzarr.legacy.bounded import Unreadable, read_json
from calibzarr.legacy.choices import LAYOUTS
from calibzarr.storage import durable, schema
from calibzarr.storage.manifest import Root

NAME = ".calibzarr-export.json"

_MOST_BYTES = 1 << 24
_IDENTITY = (*schema.FINGERPRINT, "created")  # attributes that tell one store from another


@dataclass(frozen=True)
class Marker:
    """What an export says of itself.

    Attributes:
        store: attributes that tell the store from any other.
        layout: of the states, one of ``choices.LAYOUTS``.
        images: whose files were all written.
    """

    store: Mapping[str, Any]
    layout: str
    images: tuple[int, ...] = ()

    def is_of(self, other: "Marker") -> bool:
        """Whether both are of one store in one layout, so that one export adds to the other."""
        return (self.store, self.layout) == (other.store, other.layout)


def begun(root: Root, layout: str) -> Marker:
    """That of an export that has written nothing yet.

    Args:
        root: of the store.
        layout: of the states.
    """
    return Marker({name: root.attributes.get(name) for name in _IDENTITY}, layout)


def read(directory: Path) -> Marker | None:
    """The marker of a directory; None where there is none that can be used."""
    try:
        content = read_json(directory / NAME, _MOST_BYTES)
    except Unreadable:
        return None
    identity, layout, images = (content.get(key) for key in ("store", "layout", "images"))
    if not isinstance(identity, dict) or layout not in LAYOUTS:
        return None
    if not isinstance(images, list) or not all(isinstance(image, int) for image in images):
        return None
    return Marker(identity, layout, tuple(images))


def write(directory: Path, marker: Marker) -> None:
    """Put a marker into a directory."""
    content = {
        "store": dict(marker.store),
        "layout": marker.layout,
        "images": sorted(marker.images),
    }
    durable.write(directory / NAME, json.dumps(content).encode())

"""Calls that make again what a repair moved aside."""

from contextlib import suppress
from typing import Any

from calibzarr.errors import Call
from calibzarr.quantization.choices import CLIPS
from calibzarr.storage import schema
from calibzarr.storage.manifest import Root
from calibzarr.storage.variable import Addition

_SAME = {  # parameters, by what the attribute says
    schema.ACTIVATIONS: ("collect", {"num_images": "num_images", "steps": "steps"}),
    schema.SENSITIVITY: (
        "sensitivity",
        {"images": "num_images", "probes": "num_probes", "steps": "steps"},
    ),
}


def of_images(root: Root) -> Call:
    """The call that makes the missing images."""
    if schema.IMPORTED in root.attributes:
        return Call("import_legacy", ("DIR", root.path))
    return Call("build", (root.path,), {"resume": True})


def of_addition(root: Root, addition: Addition) -> Call:
    """The call that makes an addition as it was, as far as that is known."""
    function, names = _SAME[addition.attribute]
    same: dict[str, Any] = {}
    with suppress(KeyError, TypeError):
        about = root.attributes[addition.attribute]
        same = {parameter: about[name] for parameter, name in names.items()}
        if about.get("clip") in CLIPS:
            same["clip"] = about["clip"]
    return Call(function, (root.path,), same)

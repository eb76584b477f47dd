"""Calls that make again what a repair moved aside."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from calibzarr.errors import Call
from calibzarr.quantization.choices import CLIPS
from calibzarr.storage import schema
from calibzarr.storage.manifest import Root


def of_images(root: Root) -> Call:
    """The call that makes the missing images."""
    if schema.IMPORTED in root.attributes:
        return Call("import_legacy", ("DIR", root.path))
    return Call("build", (root.path,), {"resume": True})


def _call_for_statistics(root: Root) -> Call:
    """The call that collects the same steps of as many images, where that is known."""
    with suppress(KeyError, TypeError, ValueError):
        about: Any = root.attributes[schema.ACTIVATIONS]
        same = {"num_images": int(about["num_images"]), "steps": [int(k) for k in about["steps"]]}
        return Call("collect", (root.path,), same)
    return Call("collect", (root.path,))


def _call_for_sensitivities(root: Root) -> Call:
    """The call that measures the same steps with as many images and probes, where that is known."""
    with suppress(KeyError, TypeError, ValueError):
        about: Any = root.attributes[schema.SENSITIVITY]
        same: dict[str, Any] = {
            "images": int(about["num_images"]),
            "probes": int(about["num_probes"]),
            "steps": [int(step) for step in about["steps"]],
        }
        if about["clip"] in CLIPS:
            same["clip"] = about["clip"]
        return Call("sensitivity", (root.path,), same)
    return Call("sensitivity", (root.path,))


OF_ADDITIONS: dict[str, Callable[[Root], Call]] = {
    schema.ACTIVATIONS: _call_for_statistics,
    schema.SENSITIVITY: _call_for_sensitivities,
}

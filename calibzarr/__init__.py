"""Calibration datasets for quantizing diffusion transformers, in one Zarr store."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibzarr.analysis import analyze
    from calibzarr.builder import build
    from calibzarr.collector import collect
    from calibzarr.recommendation import recommend
    from calibzarr.store import open_store

__all__ = ["analyze", "build", "collect", "open_store", "recommend"]

_MODULES = {
    "analyze": "calibzarr.analysis",
    "build": "calibzarr.builder",
    "collect": "calibzarr.collector",
    "open_store": "calibzarr.store",
    "recommend": "calibzarr.recommendation",
}


def __getattr__(name: str) -> Any:
    """Import a public function when it is first used: the commands' help needs none of them."""
    if name not in _MODULES:
        raise AttributeError(f"module 'calibzarr' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

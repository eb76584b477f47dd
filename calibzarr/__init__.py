"""Calibration datasets for quantizing diffusion transformers, in one Zarr store."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibzarr.advice.analysis import analyze
    from calibzarr.advice.recommendation import recommend
    from calibzarr.collecting.collector import collect
    from calibzarr.sampling.builder import build
    from calibzarr.storage.store import open_store

__all__ = ["analyze", "build", "collect", "open_store", "recommend"]

_MODULES = {
    "analyze": "calibzarr.advice.analysis",
    "build": "calibzarr.sampling.builder",
    "collect": "calibzarr.collecting.collector",
    "open_store": "calibzarr.storage.store",
    "recommend": "calibzarr.advice.recommendation",
}


def __getattr__(name: str) -> Any:
    """Import a public function when it is first used: the commands' help needs none of them."""
    if name not in _MODULES:
        raise AttributeError(f"module 'calibzarr' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

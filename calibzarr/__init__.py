"""Calibration datasets for quantizing diffusion transformers, in one Zarr store."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibzarr.advice.analysis import analyze
    from calibzarr.advice.recommendation import recommend
    from calibzarr.collecting.collector import collect
    from calibzarr.collecting.layer_inputs import layer_inputs
    from calibzarr.collecting.sensitivity import sensitivity
    from calibzarr.comparison.comparing import compare
    from calibzarr.export.quantizing import quantize
    from calibzarr.integrity.repair import repair
    from calibzarr.integrity.verification import verify
    from calibzarr.legacy.exporting import export_legacy
    from calibzarr.legacy.importing import import_legacy
    from calibzarr.models.builtin import load_pipeline
    from calibzarr.models.registry import download
    from calibzarr.sampling.builder import build
    from calibzarr.storage.reading import open_store

__all__ = [
    "analyze",
    "build",
    "collect",
    "compare",
    "download",
    "export_legacy",
    "import_legacy",
    "layer_inputs",
    "load_pipeline",
    "open_store",
    "quantize",
    "recommend",
    "repair",
    "sensitivity",
    "verify",
]

_MODULES = {
    "analyze": "calibzarr.advice.analysis",
    "build": "calibzarr.sampling.builder",
    "collect": "calibzarr.collecting.collector",
    "compare": "calibzarr.comparison.comparing",
    "download": "calibzarr.models.registry",
    "export_legacy": "calibzarr.legacy.exporting",
    "import_legacy": "calibzarr.legacy.importing",
    "layer_inputs": "calibzarr.collecting.layer_inputs",
    "load_pipeline": "calibzarr.models.builtin",
    "open_store": "calibzarr.storage.reading",
    "quantize": "calibzarr.export.quantizing",
    "recommend": "calibzarr.advice.recommendation",
    "repair": "calibzarr.integrity.repair",
    "sensitivity": "calibzarr.collecting.sensitivity",
    "verify": "calibzarr.integrity.verification",
}


if not TYPE_CHECKING:  # editors and mypy see the imports above, and no name that is not there

    def __getattr__(name: str) -> Any:
        """Import a public function when it is first used: the commands' help needs none of them."""
        if name not in _MODULES:
            raise AttributeError(f"module 'calibzarr' has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

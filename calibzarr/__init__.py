"""Calibration datasets for quantizing diffusion transformers, in one Zarr store.

Every command has a function of its name, with its options as keywords: ``build``, ``collect``,
``sensitivity``, ``analyze``, ``recommend``, ``export_config``, ``quantize``, ``compare``,
``verify``, ``repair``, ``info``. ``open_store`` gives a store as an ``xarray.Dataset``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibzarr.advice.analysis import analyze
    from calibzarr.advice.recommendation import recommend
    from calibzarr.collecting.collector import collect
    from calibzarr.collecting.layer_inputs import layer_inputs
    from calibzarr.collecting.sensitivity import sensitivity
    from calibzarr.comparison.comparing import compare
    from calibzarr.export.config import export_config
    from calibzarr.export.quantizing import quantize
    from calibzarr.integrity.repair import repair
    from calibzarr.integrity.verification import verify
    from calibzarr.legacy.exporting import export_legacy
    from calibzarr.legacy.importing import import_legacy
    from calibzarr.models.builtin import load_pipeline
    from calibzarr.models.registry import download
    from calibzarr.plots.images import contact_sheet, film_strip
    from calibzarr.prompts.general import make_prompts
    from calibzarr.prompts.lists import read_prompts
    from calibzarr.sampling.builder import build
    from calibzarr.statistics.histogram import quantile
    from calibzarr.storage.reading import info, open_store

    __version__: str

__all__ = [
    "analyze",
    "build",
    "collect",
    "compare",
    "contact_sheet",
    "download",
    "export_config",
    "export_legacy",
    "film_strip",
    "import_legacy",
    "info",
    "layer_inputs",
    "load_pipeline",
    "make_prompts",
    "open_store",
    "quantile",
    "quantize",
    "read_prompts",
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
    "contact_sheet": "calibzarr.plots.images",
    "export_config": "calibzarr.export.config",
    "export_legacy": "calibzarr.legacy.exporting",
    "film_strip": "calibzarr.plots.images",
    "import_legacy": "calibzarr.legacy.importing",
    "info": "calibzarr.storage.reading",
    "layer_inputs": "calibzarr.collecting.layer_inputs",
    "load_pipeline": "calibzarr.models.builtin",
    "make_prompts": "calibzarr.prompts.general",
    "open_store": "calibzarr.storage.reading",
    "quantile": "calibzarr.statistics.histogram",
    "quantize": "calibzarr.export.quantizing",
    "read_prompts": "calibzarr.prompts.lists",
    "recommend": "calibzarr.advice.recommendation",
    "repair": "calibzarr.integrity.repair",
    "sensitivity": "calibzarr.collecting.sensitivity",
    "verify": "calibzarr.integrity.verification",
}


if not TYPE_CHECKING:  # editors and mypy see the imports above, and no name that is not there

    def __getattr__(name: str) -> Any:
        """Import a public function when it is first used: the commands' help needs none of them."""
        if name == "__version__":
            from importlib.metadata import version

            return version("calibzarr")
        if name in _MODULES:
            return getattr(import_module(_MODULES[name]), name)
        from difflib import get_close_matches

        near = get_close_matches(name, _MODULES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near and not name.startswith("_") else ""
        raise AttributeError(f"module 'calibzarr' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted({"__version__", *globals(), *__all__})

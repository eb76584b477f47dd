"""What can be chosen, by name, and what is chosen if nothing is said; without NumPy.

The library and the commands share it, so that help can list what there is at once.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Literal, get_args

from calibzarr.quantization.choices import CLIPS, Clip

__all__ = [
    "ACTIVATION_QUANTIZERS",
    "CLIPS",
    "FILE_FORMATS",
    "GRANULARITIES",
    "SORTS",
    "WEIGHT_QUANTIZERS",
    "ActivationQuantizer",
    "Clip",
    "FileFormat",
    "Granularity",
    "Sort",
    "WeightQuantizer",
    "methods",
]

Granularity = Literal["block", "linear", "all"]
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)

ActivationQuantizer = Literal["tensor", "token"]
ACTIVATION_QUANTIZERS: tuple[ActivationQuantizer, ...] = get_args(ActivationQuantizer)

WeightQuantizer = Literal["tensor", "row", "mlx"]
WEIGHT_QUANTIZERS: tuple[WeightQuantizer, ...] = get_args(WeightQuantizer)

FileFormat = Literal["json", "mlx"]
FILE_FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)

Sort = Literal["model", "range", "central-range", "outliers", "sigma", "asymmetry", "sqnr"]
SORTS: Mapping[Sort, str | None] = {
    "model": None,
    "range": "value_range",
    "central-range": "central_range",
    "outliers": "outlier_ratio",
    "sigma": "sigma_variation",
    "asymmetry": "asymmetry",
    "sqnr": "sqnr_db",
}
"""Orders of a table, by the variable that decides; the model's own where there is none."""


_FOLDER = "calibzarr.advice.methods"
_BASE = "base"  # what methods share; every other module of the folder is one


def methods() -> tuple[str, ...]:
    """Names of the ways to choose numbers of bits: of the modules in their folder."""
    folder = find_spec(_FOLDER)
    assert folder is not None
    found = iter_modules(folder.submodule_search_locations)
    return tuple(module.name for module in found if module.name != _BASE)

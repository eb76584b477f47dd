"""Datasets that other programs take: variables named, strings and attributes of plain types."""

from collections.abc import Mapping
from typing import Any

import xarray as xr

from calibzarr import strict_json


def for_users(dataset: xr.Dataset, texts: Mapping[str, tuple[str, str]]) -> xr.Dataset:
    """A dataset as ``to_zarr`` and ``to_netcdf`` take it, each variable with its name and units.

    Args:
        dataset: with attributes of JSON types, or of what has a text.
        texts: ``long_name`` and ``units`` by name of a variable that is without them.

    Returns:
        The same values: strings as objects; attributes that are neither text nor number as JSON
        text, and without those that are not known.
    """
    variables = {str(name): _plain(variable) for name, variable in dataset.variables.items()}
    for name, variable in variables.items():
        if name in texts:
            variable.attrs = dict(zip(("long_name", "units"), texts[name], strict=True))
    coordinates = {name: variables.pop(name) for name in map(str, dataset.coords)}
    attributes = {
        str(name): _as_attribute(value)
        for name, value in dataset.attrs.items()
        if value is not None
    }
    return xr.Dataset(variables, coordinates, attributes)


def _plain(variable: xr.Variable) -> xr.Variable:
    """Without the encoding of the store that it was read from."""
    text = variable.dtype.kind == "U"
    return (variable.astype(object) if text else variable.copy(deep=False)).drop_encoding()


def _as_attribute(value: Any) -> str | int | float:
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, str | int | float) else strict_json.dumps(value)

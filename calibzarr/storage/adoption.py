"""What a store without an index, as those of 0.1 are, must not contradict before it gets one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import zarr

from calibzarr.errors import StoreError
from calibzarr.statistics import identities
from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.steps import falls_to_zero
from calibzarr.storage import arrays, copies, schema
from calibzarr.storage.manifest import FILE, Root, prompts_sha256

_LARGE = tuple(  # the others fit into the memory whole
    variable
    for variable in schema.STATISTICS
    if {"image", "feature", "bin"} & set(variable.dims[1:])
)


def contradictions(root: Root) -> dict[str, str]:
    """What contradicts the rest in a store without an index, by file or variable, in words."""
    found = dict(_metadata_errors(root))
    if found:
        return found  # values would mean nothing
    old = copies.old_attributes(root.path)
    differing = [name for name, value in old.items() if root.attributes.get(name) != value]
    if differing:
        found[FILE] = f"{', '.join(differing)} is not what its copy says"
    group = arrays.open_group(root, mode="r")
    checks: dict[str, Callable[[], Iterable[tuple[str, str]]]] = {
        schema.PROMPT.name: lambda: _coordinate_errors(root, group),
        schema.SENSITIVITY: lambda: _sensitivity_errors(root, group),
        schema.ACTIVATIONS: lambda: _statistics_errors(group, root.attributes),
    }
    for name, check in checks.items():
        try:
            found |= dict(check())
        except Exception as error:  # noqa: BLE001 - whatever zarr or a codec raises
            found[name] = f"{name} cannot be read: {error}"
    return found


def index(root: Root) -> dict[str, str]:
    """The index that a store without one gets: of its files as they are.

    Raises:
        StoreError: if something contradicts the rest.
    """
    for why in contradictions(root).values():
        raise copies.damaged(root.path, why)
    return copies.index_of_files(root.path, root.arrays.keys() & schema.NAMES)


def _metadata_errors(root: Root) -> Iterator[tuple[str, str]]:
    """Arrays whose own metadata are not what the root says of them."""
    for name in sorted(root.arrays.keys() & schema.NAMES):
        stored = None
        with suppress(OSError, StoreError):
            stored = copies.parse(root.path / name / FILE)
        if stored != root.arrays[name]:
            yield f"{name}/{FILE}", f"{name}/{FILE} is not what the root says of it"


def _coordinate_errors(root: Root, group: zarr.Group) -> Iterator[tuple[str, str]]:
    """What is wrong with prompts, seeds and noise levels."""
    variables = [variable for variable in schema.BUILD_VARIABLES if variable.coordinate]
    values = {variable.name: _read(group, variable.name) for variable in variables}
    prompt, seed, sigma, final = (values[name] for name in ("prompt", "seed", "sigma", "final"))
    if prompts_sha256(list(map(str, prompt))) != root.attributes["prompts_sha256"]:
        yield "prompt", "the prompts do not have the SHA-256 of the manifest"
    if (seed < 0).any():
        yield "seed", "an image has no seed"
    if not falls_to_zero(sigma):
        yield "sigma", "sigma does not fall to 0"
    if not np.array_equal(final, np.arange(len(final)) == len(final) - 1):
        yield "final", "final is not true for the last state alone"
    for name, copy in copies.read_old(root.path, "coordinates.json").items():
        if name in values and values[name].tolist() != copy:
            yield name, f"{name} is not what its copy says"


def _sensitivity_errors(root: Root, group: zarr.Group) -> list[tuple[str, str]]:
    """None: they have no identities, but what their checksums say, which zarr raises."""
    for name in root.arrays.keys() & {own.name for own in schema.SENSITIVITY_VARIABLES}:
        _read(group, name)
    return []


def _statistics_errors(
    group: zarr.Group, attributes: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """What contradicts the rest in statistics."""
    about = attributes.get(schema.ACTIVATIONS)
    if about is None:
        return
    variables = schema.collected_variables(set(group.array_keys()))
    small = {own.name: _read(group, own.name) for own in variables if own not in _LARGE}
    if schema.OBSERVED.name not in small:  # of an older version
        collected = small[schema.COLLECTED.name]
        small[schema.OBSERVED.name] = np.tile(collected, (len(small["layer"]), 1))
    errors = identities.extent_errors(
        small, about["steps"], about["num_images"], LogBins(**about["bins"])
    )
    errors += identities.weight_errors(small)
    by_step = {variable.name for variable in schema.STATISTICS}
    by_layer = by_step | {variable.name for variable in schema.LAYER_COORDINATES}
    observed = small[schema.OBSERVED.name]
    for step in np.flatnonzero(observed.any(axis=0)).tolist():
        values = {own.name: _read(group, own.name, (slice(None), step)) for own in _LARGE}
        for name, array in small.items():
            values[name] = array[:, step] if name in by_step else array
        seen, others = (
            {name: array[rows] if name in by_layer else array for name, array in values.items()}
            for rows in (observed[:, step], ~observed[:, step])
        )
        lost = identities.unobserved_errors({name: others[name] for name in by_step})
        errors += [
            f"statistics of step {step}: {error}"
            for error in (*identities.step_errors(seen), *lost)
        ]
    if errors:
        more = f" (and {len(errors) - 1} more errors)" if errors[1:] else ""
        yield schema.ACTIVATIONS, errors[0] + more


def _read(group: zarr.Group, name: str, selection: Any = slice(None)) -> np.ndarray:
    return np.asarray(arrays.array(group, name).oindex[selection])

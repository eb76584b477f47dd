"""What a store without an index, as those of 0.1 are, must not contradict before it gets one."""

import os
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
    for name in copies.old_attributes(root.path, root.attributes):
        found[FILE] = f"{name} is not what its copy says"
    found |= dict(_lost_chunks(root))
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


def _lost_chunks(root: Root) -> Iterator[tuple[str, str]]:
    """Arrays without a chunk, which read as fill values, or that no attribute tells of."""
    may_be_empty = {schema.LATENTS.name, schema.DECODED.name, schema.COMPLETE.name}
    for name in sorted((root.arrays.keys() & schema.NAMES) - may_be_empty):
        if not any(file.startswith("c") for file in os.listdir(root.path / name)):
            yield name, f"{name} has no values"
    for addition in schema.ADDITIONS:
        names = root.arrays.keys() & set(addition.names)
        if bool(names) != (addition.attribute in root.attributes):
            yield addition.attribute, f"the {addition.title} do not go with the manifest"


def _coordinate_errors(root: Root, group: zarr.Group) -> Iterator[tuple[str, str]]:
    """What is wrong with prompts, seeds and noise levels."""
    tests: dict[str, tuple[Callable[[np.ndarray], bool], str]] = {
        "prompt": (
            lambda texts: prompts_sha256(texts.tolist()) == root.attributes["prompts_sha256"],
            "the prompts do not have the SHA-256 of the manifest",
        ),
        "seed": (lambda seeds: bool((seeds >= 0).all()), "an image has no seed"),
        "sigma": (falls_to_zero, "sigma does not fall to 0"),
        "timestep": (lambda _: True, ""),
        "final": (
            lambda final: np.flatnonzero(final).tolist() == [len(final) - 1],
            "final is not true for the last state alone",
        ),
        "complete": (
            lambda marks: root.attributes.get("n_completed") in (None, marks.sum()),
            "there are not as many complete images as the manifest says",
        ),
    }
    copied = copies.read_old(root.path, "coordinates.json")
    for name, (is_right, why) in tests.items():
        try:
            values = _read(group, name)
        except Exception as error:  # noqa: BLE001 - whatever zarr or a codec raises
            yield name, f"{name} cannot be read: {error}"
            continue
        if copied.get(name, values.tolist()) != values.tolist():
            yield name, f"{name} is not what its copy says"
        elif not is_right(values):
            yield name, why


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

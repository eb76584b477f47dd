"""What is added to a store: statistics, and whatever else is measured later."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from calibzarr.errors import Call, StoreError
from calibzarr.statistics.cached import CachedStatistics
from calibzarr.statistics.histogram import LogBins, representative
from calibzarr.statistics.running import Statistics
from calibzarr.storage import arrays, commit, schema, store
from calibzarr.storage.manifest import Root, read_root
from calibzarr.storage.variable import Addition

ATTRIBUTE = schema.ACTIVATIONS


def read(root: Root, bins: LogBins) -> Statistics | None:
    """The statistics of a store at its collected steps; None where there are none.

    Raises:
        StoreError: if their histograms have other bins.
    """
    covered = extent(root, bins)
    if covered is None:
        return None
    steps, images = covered
    derived = _derived(store.open_group(root, mode="r"), slice(None), steps, images)
    return Statistics.from_derived(bins, steps, images, derived)


def read_cached(
    root: Root, bins: LogBins, layers: Sequence[int], features: int
) -> CachedStatistics | None:
    """Statistics of the layers of the caching pass at every call; None where there are none.

    Args:
        root: of the store.
        bins: of the histograms.
        layers: indices.
        features: the widest of these layers' width.

    Raises:
        StoreError: if they were not observed at every call, or their histograms have other bins.
    """
    covered = extent(root, bins)
    if covered is None:
        return None
    images, calls = covered[1], list(range(root.attributes["num_steps"]))
    if not layers:
        return CachedStatistics.empty(bins, (), len(calls), images, features)
    check_observed(root)
    group = store.open_group(root, mode="r")
    if not _read(group, schema.OBSERVED.name)[np.ix_(layers, calls)].all():
        raise _collected_before(root)
    derived = {
        name: values[..., :features] if name.startswith("feature_") else values
        for name, values in _derived(group, list(layers), calls, images).items()
    }
    statistics = Statistics.from_derived(bins, calls, images, derived)
    return CachedStatistics(tuple(layers), statistics)


def check_observed(root: Root) -> None:
    """Check that a store's statistics say where each layer was observed, so that they can grow.

    Raises:
        StoreError: if an older version collected them.
    """
    if schema.OBSERVED.name not in root.arrays:
        raise _collected_before(root)


def _collected_before(root: Root) -> StoreError:
    return StoreError(
        f"{root.path} has statistics of an older version, which did not observe adaLN and the "
        "embedders at every call; they can be used, but not added to. Start over with: ",
        Call("collect", (root.path,), {"force": True}),
    )


def _derived(
    group: zarr.Group, layers: slice | list[int], steps: list[int], images: list[int]
) -> dict[str, np.ndarray]:
    """The variables of the statistics, by name."""
    return {
        variable.name: _read(
            group,
            variable.name,
            (layers, steps, images) if "image" in variable.dims else (layers, steps),
        )
        for variable in schema.STATISTICS
    }


def extent(root: Root, bins: LogBins) -> tuple[list[int], list[int]] | None:
    """Steps and images that a store's statistics cover; None where there are none.

    Raises:
        StoreError: if their histograms have other bins.
    """
    activations = _activations(root)
    if activations is None:
        return None
    stored = LogBins(**activations["bins"])
    if stored != bins:
        raise StoreError(
            f"{root.path} has statistics on another grid, {stored}; this calibzarr counts on "
            f"{bins}. Start over with: ",
            Call("collect", (root.path,), {"force": True}),
        )
    group = store.open_group(root, mode="r")
    steps, images = (
        np.flatnonzero(_read(group, variable.name)).tolist()
        for variable in (schema.COLLECTED, schema.COLLECTED_IMAGE)
    )
    return steps, images


def stamp(root: Root) -> str | None:
    """What tells this store's statistics from any others; None where there are none."""
    activations = _activations(root)
    return None if activations is None else str(activations["stamp"])


def _activations(root: Root) -> dict[str, Any] | None:
    activations = root.attributes.get(ATTRIBUTE)
    if activations is not None and not isinstance(activations, dict):
        raise StoreError(f"{root.path} is damaged: its attribute {ATTRIBUTE!r} is no object")
    return activations


def _read(group: zarr.Group, name: str, selection: Any = slice(None)) -> np.ndarray:
    return np.asarray(store.array(group, name).oindex[selection])


def replace(
    path: Path,
    statistics: Statistics,
    layers: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    activations: Mapping[str, Any],
    cached: CachedStatistics | None = None,
) -> None:
    """Put statistics in the place of those that a store has.

    Args:
        path: directory of the store.
        statistics: every image at every step.
        layers: values of the coordinates about layers, by name, in the order of the arrays.
        weights: values of the variables about weights, by name.
        activations: the attribute that says what was collected, JSON types only.
        cached: the same images at every call.

    Raises:
        OSError: if they cannot be written; the old ones stay.
    """
    num_images, num_states, *_ = read_root(path).arrays[schema.LATENTS.name]["shape"]
    sizes = {
        "image": num_images,
        "step": num_states,
        "layer": len(layers["layer"]),
        "bin": statistics.bins.count,
        "feature": int(layers["features"].max()),
    }
    with stage(path, schema.COLLECTION, sizes, activations) as staged:
        values = {
            **weights,
            **layers,
            "bin_low": statistics.bins.low,
            "bin_high": statistics.bins.high,
            "bin_center": representative(statistics.bins.low, statistics.bins.high),
            schema.COLLECTED_IMAGE.name: np.isin(np.arange(sizes["image"]), statistics.images),
            schema.COLLECTED.name: np.isin(np.arange(sizes["step"]), statistics.steps),
            schema.OBSERVED.name: _observed(sizes, statistics, cached),
        }
        for name, array in values.items():
            store.array(staged, name)[:] = array
        of_cached = {} if cached is None else cached.statistics.derived()
        for name, array in statistics.derived().items():
            target = store.array(staged, name)
            if array.ndim == 2:  # a single chunk, written once
                target[:] = _all_steps(target, array, statistics, of_cached.get(name), cached)
                continue
            for index, step in enumerate(statistics.steps):
                target[:, step] = _of_step(target, array[:, index], statistics)
            if cached is not None and cached.layers:
                for step in _other_calls(statistics, cached):
                    rows = _of_step(target, of_cached[name][:, step], cached.statistics)
                    target[:, step] = _of_all_layers(target, rows, cached)


def _observed(
    sizes: Mapping[str, int], statistics: Statistics, cached: CachedStatistics | None
) -> np.ndarray:
    """Which layers were observed at which steps, shape (layer, step)."""
    observed = np.zeros((sizes["layer"], sizes["step"]), dtype=bool)
    observed[:, list(statistics.steps)] = True
    if cached is not None:
        observed[np.ix_(cached.layers, cached.statistics.steps)] = True
    return observed


def _other_calls(statistics: Statistics, cached: CachedStatistics) -> list[int]:
    """Calls that the layers of the caching pass alone were observed at."""
    return [step for step in cached.statistics.steps if step not in statistics.steps]


def _all_steps(
    target: zarr.Array[Any],
    values: np.ndarray,
    statistics: Statistics,
    of_cached: np.ndarray | None,
    cached: CachedStatistics | None,
) -> np.ndarray:
    """A statistic without a third dimension, shape (layer, step), where all is in its place."""
    all_steps = np.full(target.shape, target.fill_value, dtype=target.dtype)
    if cached is not None and of_cached is not None:
        all_steps[np.ix_(cached.layers, cached.statistics.steps)] = of_cached
    all_steps[:, list(statistics.steps)] = values
    return all_steps


def _of_step(target: zarr.Array[Any], values: np.ndarray, statistics: Statistics) -> np.ndarray:
    """Values of a step, shape (layer, ...), with room for all images or features of the store."""
    if values.shape[1] == target.shape[2] and not target.basename.startswith("image_"):
        return values
    wider = np.full((len(values), target.shape[2]), target.fill_value, dtype=target.dtype)
    if target.basename.startswith("image_"):
        wider[:, list(statistics.images)] = values
    else:
        wider[:, : values.shape[1]] = values
    return wider


def _of_all_layers(
    target: zarr.Array[Any], values: np.ndarray, cached: CachedStatistics
) -> np.ndarray:
    """Values of the layers of the caching pass, shape (layer, ...), among all layers."""
    rows = np.full((target.shape[0], target.shape[2]), target.fill_value, dtype=target.dtype)
    rows[list(cached.layers)] = values
    return rows


@contextmanager
def stage(
    path: Path, addition: Addition, sizes: Mapping[str, int], about: Mapping[str, Any]
) -> Iterator[zarr.Group]:
    """Give arrays to fill that are in the place of any that a store has when the block ends.

    Args:
        path: directory of the store.
        addition: what they are.
        sizes: of every dimension that they have; images are as many as the store has.
        about: value of their attribute, JSON types only.

    Raises:
        OSError: if they cannot be written; what the store has stays.
    """
    with commit.change(path) as made:
        made.remove(addition)
        made.attributes[addition.attribute] = dict(about)
        yield made.create(addition.variables, {**sizes, "image": made.root.num_images})


def write(
    path: Path,
    addition: Addition,
    sizes: Mapping[str, int],
    values: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
) -> None:
    """Put variables into a store, in the place of any that it has; see :func:`stage`.

    Args:
        path: directory of the store.
        addition: what they are.
        sizes: of every dimension that they have.
        values: of every variable, by name.
        about: value of their attribute, JSON types only.
    """
    with stage(path, addition, sizes, about) as group:
        for name, array in values.items():
            arrays.array(group, name)[:] = array

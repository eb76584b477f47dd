"""Whether a store without an index, of 0.1, contradicts itself: in metadata, copies, statistics."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import zarr

from calibzarr.errors import StoreError
from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.steps import falls_to_zero
from calibzarr.storage import arrays, copies, schema
from calibzarr.storage.manifest import FILE, Root, prompts_sha256

_ROUNDING = 1e-5  # of means that were kept in float32, relative to the range
_LARGE = tuple(  # the others fit into the memory whole
    variable
    for variable in schema.STATISTICS
    if {"image", "feature", "bin"} & set(variable.dims[1:])
)


def errors(root: Root) -> list[str]:
    """What contradicts each other in a store of 0.1, in words."""
    found = list(_metadata_errors(root))
    if found:
        return found  # values would mean nothing
    try:
        group = arrays.open_group(root, mode="r")
        found += _coordinate_errors(root, group)
        for name in root.arrays.keys() & {own.name for own in schema.SENSITIVITY_VARIABLES}:
            _read(group, name)
    except Exception as error:  # noqa: BLE001 - whatever zarr or a codec raises
        found.append(f"it cannot be read: {error}")
    return found + statistics_errors(root)


def statistics_errors(root: Root) -> list[str]:
    """What contradicts each other in the statistics of a store of 0.1, in words."""
    if schema.ACTIVATIONS not in root.attributes:
        return []
    try:
        group = arrays.open_group(root, mode="r")
        return list(_statistics_errors(group, root.attributes[schema.ACTIVATIONS]))
    except Exception as error:  # noqa: BLE001 - whatever zarr or a codec raises
        return [f"the statistics cannot be read: {error}"]


def _metadata_errors(root: Root) -> Iterator[str]:
    """Arrays whose own metadata are not what the root says of them."""
    for name in sorted(root.arrays.keys() & schema.NAMES):
        stored = None
        with suppress(OSError, StoreError):
            stored = copies.parse(root.path / name / FILE)
        if stored != root.arrays[name]:
            yield f"{name}/{FILE} is not what the root says of it"


def _coordinate_errors(root: Root, group: zarr.Group) -> Iterator[str]:
    """What is wrong with prompts, seeds and noise levels."""
    values = {
        variable.name: _read(group, variable.name)
        for variable in schema.BUILD_VARIABLES
        if variable.coordinate
    }
    sigma, final = values[schema.SIGMA.name], values[schema.FINAL.name]
    if prompts_sha256(list(map(str, values["prompt"]))) != root.attributes["prompts_sha256"]:
        yield "the prompts do not have the SHA-256 of the manifest"
    if (values[schema.SEED.name] < 0).any():
        yield "an image has no seed"
    if not falls_to_zero(sigma):
        yield "sigma does not fall to 0"
    if not np.array_equal(final, np.arange(len(final)) == len(final) - 1):
        yield "final is not true for the last state alone"
    for name, copy in copies.read_old(root.path, "coordinates.json").items():
        if name in values and values[name].tolist() != copy:
            yield f"{name} is not what its copy says"
    old = copies.read_old(root.path, "root.json").get("attributes", {})
    for name in (*schema.FINGERPRINT, *schema.FORMULAS, "prompts_sha256"):
        if old.get(name) not in (None, root.attributes.get(name)):
            yield f"{name} is not what its copy says"


def _statistics_errors(group: zarr.Group, about: Mapping[str, Any]) -> Iterator[str]:
    """What contradicts each other in statistics; ``about``: their attribute."""
    small = {
        variable.name: _read(group, variable.name)
        for variable in schema.collected_variables(set(group.array_keys()))
        if variable not in (*_LARGE, *schema.WEIGHT_STATISTICS)
    }
    yield from _extent_errors(small, about)
    weights = (_read(group, variable.name) for variable in schema.WEIGHT_STATISTICS)
    yield from _weight_errors(small, *weights)
    observed = _observed(small)
    for step in np.flatnonzero(observed.any(axis=0)).tolist():
        large = {own.name: _read(group, own.name, (slice(None), step)) for own in _LARGE}
        for error in _step_errors({**_at_step(small, step), **large}, observed[:, step]):
            yield f"statistics of step {step}: {error}"


def _observed(small: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which layers were observed at which steps, shape (layer, step)."""
    if schema.OBSERVED.name in small:
        return small[schema.OBSERVED.name]
    collected = small[schema.COLLECTED.name]  # of an older version
    return np.broadcast_to(collected, (len(small["layer"]), len(collected)))


def _step_errors(values: Mapping[str, np.ndarray], observed: np.ndarray) -> list[str]:
    """What is wrong with a step's statistics; ``observed``: of which layers they are."""
    if observed.all():
        return step_errors(values)
    of_layers = {
        variable.name for variable in schema.COLLECTED_VARIABLES if variable.dims[0] == "layer"
    }
    errors = step_errors(
        {name: array[observed] if name in of_layers else array for name, array in values.items()}
    )
    for variable in schema.STATISTICS:
        others = values[variable.name][~observed]
        if not (np.isnan(others) if others.dtype.kind == "f" else others == 0).all():
            errors.append(f"{variable.name} has values of layers that were not observed")
    return errors


def _read(group: zarr.Group, name: str, selection: Any = slice(None)) -> np.ndarray:
    return np.asarray(arrays.array(group, name).oindex[selection])


def _at_step(small: Mapping[str, np.ndarray], step: int) -> dict[str, np.ndarray]:
    """The small arrays, those by step at one of them."""
    by_step = {variable.name for variable in schema.STATISTICS}
    return {name: values[:, step] if name in by_step else values for name, values in small.items()}


def _extent_errors(small: dict[str, np.ndarray], activations: Mapping[str, Any]) -> list[str]:
    """What the small arrays and the attribute ``activations`` contradict each other in."""
    errors = []
    steps = np.flatnonzero(small[schema.COLLECTED.name])
    num_images = int(small[schema.COLLECTED_IMAGE.name].sum())
    if steps.tolist() != list(activations["steps"]):
        errors.append(f"collected has steps {steps.tolist()}, not {activations['steps']}")
    if num_images != activations["num_images"]:
        errors.append(f"collected_image has {num_images} images, not {activations['num_images']}")
    bins = LogBins(**activations["bins"])
    if not all(
        np.array_equal(small[name], edges)
        for name, edges in (("bin_low", bins.low), ("bin_high", bins.high))
    ):
        errors.append("the edges of the bins are not those of the manifest")
    layers, features = small["layer"].tolist(), small["features"]
    if len(set(layers)) < len(layers) or "" in layers:
        errors.append("the names of the layers are not all different")
    if (features < 1).any():
        errors.append("a layer has no features")
    errors += _observed_errors(small)
    seen = small["value_count"] + small["non_finite_count"]
    if (features > 0).all() and (seen % (features * max(num_images, 1))[:, None]).any():
        errors.append("a value_count is no multiple of images and features")
    return errors


def _observed_errors(small: Mapping[str, np.ndarray]) -> list[str]:
    """What is wrong with where layers were observed."""
    observed, collected = _observed(small), small[schema.COLLECTED.name]
    seen = small["value_count"] + small["non_finite_count"]
    errors = []
    if not observed[:, collected].all():
        errors.append("a layer was not observed at a step that was collected")
    at_other_calls = observed[:, :-1][:, ~collected[:-1]]
    if (at_other_calls.any(axis=1) & ~at_other_calls.all(axis=1)).any():
        errors.append("a layer was observed at some of the other calls, and not at all")
    if observed[:, -1:][:, ~collected[-1:]].any():
        errors.append("a layer was observed at the final state, which is no call")
    if (observed & (seen != seen.max(axis=1, keepdims=True, initial=0))).any():
        errors.append("a layer was not observed as often at every step")
    if seen[~observed].any():
        errors.append("there are counts of steps that were not collected")
    return errors


def _weight_errors(
    small: dict[str, np.ndarray], counts: np.ndarray, greatest: np.ndarray
) -> list[str]:
    """What is wrong with the statistics of weights."""
    features, linear = small["features"], small["role"] == "input"
    inside = (np.arange(greatest.shape[1]) < features[:, None]) & linear[:, None]
    totals = counts.sum(axis=1)
    errors = []
    if (counts < 0).any() or (totals % features).any() or ((totals > 0) != linear).any():
        errors.append("weight_histogram does not count the weights of the linear layers")
    if not (np.isfinite(greatest) == inside).all() or (greatest[inside] < 0).any():
        errors.append("weight_feature_max is not of the linear layers' features")
    return errors


@dataclass(frozen=True)
class _Step:
    """One step's statistics, shapes (layer, ...), and what the checks need of them."""

    values: Mapping[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[name]

    @cached_property
    def counted(self) -> np.ndarray:
        """Layers with a finite value, shape (layer,)."""
        return np.asarray(self["value_count"] > 0)

    @cached_property
    def none_lost(self) -> np.ndarray:
        """Layers without a value that is not finite, shape (layer,)."""
        return np.asarray(self["non_finite_count"] == 0)

    @cached_property
    def slack(self) -> np.ndarray:
        """By how much a mean may be off, activation units, shape (layer,)."""
        greatest = np.maximum(np.abs(self["value_min"]), np.abs(self["value_max"]))
        return np.asarray(_ROUNDING * greatest.astype(np.float64))

    def finite_elsewhere(self, name: str, expected: np.ndarray) -> np.ndarray:
        """Layers where a statistic is finite elsewhere than expected, shape (layer,).

        Args:
            name: of a statistic of shape (layer, n).
            expected: where it must be finite, shape (layer, n) or (n,); but for lost values.
        """
        differs = np.isfinite(self[name]) != expected
        return np.asarray((differs & (self.none_lost[:, None] | ~expected)).any(axis=1))


def step_errors(values: Mapping[str, np.ndarray]) -> list[str]:
    """What contradicts each other in one step's statistics, in words.

    Args:
        values: the statistics, shapes (layer, ...), and ``layer``, ``features``,
            ``collected_image`` and the bins' edges.
    """
    step = _Step(values)
    with np.errstate(all="ignore"):
        wrong = {
            **_wrong_counts(step),
            **_wrong_moments(step),
            **_wrong_extents(step),
            **_wrong_images(step),
            **_wrong_features(step),
        }
    return [
        f"{step['layer'][layers.argmax()]}: {error}" + _others(int(layers.sum()))
        for error, layers in wrong.items()
        if layers.any()
    ]


def _others(count: int) -> str:
    return f" (and {count - 1} more layers)" if count > 1 else ""


def _wrong_counts(step: _Step) -> dict[str, np.ndarray]:
    histogram, count, lost = step["histogram"], step["value_count"], step["non_finite_count"]
    return {
        "histogram does not add up to value_count": (histogram < 0).any(axis=1)
        | (histogram.sum(axis=1) != count),
        "a count is below 0, or nothing was counted": (count < 0)
        | (lost < 0)
        | (count + lost == 0),
        "value_min and value_max are not in the outermost bins of the histogram": step.counted
        & _outside_bins(step),
    }


def _outside_bins(step: _Step) -> np.ndarray:
    """Layers whose extremes are not in the first and last bin that counted something."""
    counted = step["histogram"] > 0
    first = counted.argmax(axis=1)
    last = counted.shape[1] - 1 - counted[:, ::-1].argmax(axis=1)
    low, high = step["bin_low"], step["bin_high"]
    least, greatest = step["value_min"], step["value_max"]
    inside = (least >= low[first]) & (least <= high[first])
    return np.asarray(~(inside & (greatest >= low[last]) & (greatest <= high[last])))


def _wrong_moments(step: _Step) -> dict[str, np.ndarray]:
    mean, std, low, high = (step[f"value_{name}"] for name in ("mean", "std", "min", "max"))
    return {
        "value_mean is not between value_min and value_max": step.counted
        & ~((mean >= low - step.slack) & (mean <= high + step.slack)),
        "value_std is more than half the range": step.counted
        & ~((std >= 0) & (std <= (high - low) / 2 + step.slack)),
    }


def _wrong_extents(step: _Step) -> dict[str, np.ndarray]:
    covered = step[schema.COLLECTED_IMAGE.name]
    inside = np.arange(step["feature_min"].shape[1]) < step["features"][:, None]
    by_image = ("image_min", "image_max", "image_mean", "image_std")
    by_feature = ("feature_min", "feature_max", "feature_mean_min", "feature_mean_max")
    return {
        **{
            f"{name} is not of the images that are covered": step.finite_elsewhere(name, covered)
            for name in by_image
        },
        **{
            f"{name} is not of the layer's features": step.finite_elsewhere(name, inside)
            for name in by_feature
        },
    }


def _wrong_images(step: _Step) -> dict[str, np.ndarray]:
    low, high = step["image_min"], step["image_max"]
    off = np.abs(_mean(step["image_mean"]) - step["value_mean"])
    return {
        "image_min and image_max do not have value_min and value_max as extremes": step.counted
        & (_other_extremes(step, low, high) | (low > high).any(axis=1)),
        "image_mean does not have value_mean as its mean": step.counted
        & step.none_lost
        & ~(off <= step.slack),
    }


def _wrong_features(step: _Step) -> dict[str, np.ndarray]:
    low, high = step["feature_min"], step["feature_max"]
    mean_low, mean_high = step["feature_mean_min"], step["feature_mean_max"]
    slack = step.slack[:, None]
    return {
        "feature_min and feature_max do not have value_min and value_max as extremes": step.counted
        & _other_extremes(step, low, high),
        "feature_mean_min and feature_mean_max are not between feature_min and feature_max": (
            (mean_low < low - slack) | (mean_high > high + slack) | (mean_low > mean_high + slack)
        ).any(axis=1),
    }


def _other_extremes(step: _Step, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Layers whose least and greatest value are not those of (layer, n) lows and highs."""
    least = np.where(np.isnan(low), np.inf, low).min(axis=1)
    greatest = np.where(np.isnan(high), -np.inf, high).max(axis=1)
    return np.asarray((least != step["value_min"]) | (greatest != step["value_max"]))


def _mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=1, dtype=np.float64)
    return np.asarray(total / known.sum(axis=1).clip(min=1))

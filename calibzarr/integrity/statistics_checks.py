"""Whether the statistics of a store fit each other, step by step."""

from typing import Any

import numpy as np
import zarr

from calibzarr.integrity.findings import Tally
from calibzarr.statistics.histogram import LogBins
from calibzarr.storage import schema, store

_ROUNDING = 1e-5  # of means that were kept in float32, relative to the range
_ATTRIBUTE = "activations"


def present(attributes: dict[str, Any]) -> bool:
    """Whether a manifest says that there are statistics."""
    return attributes.get(_ATTRIBUTE) is not None


def check(group: zarr.Group, attributes: dict[str, Any], complete: np.ndarray) -> Tally:
    """Check the statistics of a store.

    Args:
        group: its root group.
        attributes: its manifest, with statistics.
        complete: which images are complete, shape (image,).
    """
    tally = Tally()

    def read(name: str, selection: Any = slice(None)) -> np.ndarray:
        return np.asarray(store.array(group, name).oindex[selection])

    try:
        small = {
            variable.name: read(variable.name)
            for variable in schema.collected_variables(set(group.array_keys()))
            if not {"image", "feature", "bin"} & set(variable.dims[1:])
        }
        weights = {variable.name: read(variable.name) for variable in schema.WEIGHT_STATISTICS}
        tally.record("statistics", _extent_errors(small, attributes[_ATTRIBUTE]))
        tally.record("statistics", _weight_errors(small, weights))
    except Exception as error:  # whatever a codec raises, or an attribute that is no object
        tally.record("statistics", [f"they cannot be read: {error}"])
        return tally
    images = np.flatnonzero(small[schema.COLLECTED_IMAGE.name])
    for image in images[~complete[images]]:
        tally.record("statistics", ["they cover it, but it is not complete"], int(image))
    wide = [variable for variable in schema.STATISTICS if variable.name not in small]
    for step in np.flatnonzero(small[schema.COLLECTED.name]):
        try:
            own = {variable.name: read(variable.name, (slice(None), step)) for variable in wide}
        except Exception as error:  # whatever a codec raises
            tally.record("statistics", [f"those of step {step} cannot be read: {error}"])
            continue
        flat = {
            variable.name: small[variable.name][:, step]
            for variable in schema.STATISTICS
            if variable.name in small
        }
        about = {name: small[name] for name in ("layer", "features", "bin_low", "bin_high")}
        covered = small[schema.COLLECTED_IMAGE.name]
        errors = step_errors({**about, **flat, **own}, covered)
        tally.record("statistics", [f"step {step}: {error}" for error in errors])
    return tally


def _extent_errors(small: dict[str, np.ndarray], activations: dict[str, Any]) -> list[str]:
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
    seen = small["value_count"] + small["non_finite_count"]
    if (seen[:, steps] != seen[:, steps[:1]]).any():
        errors.append("a layer was not observed as often at every step")
    if np.delete(seen, steps, axis=1).any():
        errors.append("there are counts of steps that were not collected")
    if (features > 0).all() and (seen[:, steps] % (features * max(num_images, 1))[:, None]).any():
        errors.append("a value_count is no multiple of images and features")
    return errors


def _weight_errors(small: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> list[str]:
    """What is wrong with the statistics of weights."""
    counts, greatest = weights["weight_histogram"], weights["weight_feature_max"]
    features, linear = small["features"], small["role"] == "input"
    inside = (np.arange(greatest.shape[1]) < features[:, None]) & linear[:, None]
    totals = counts.sum(axis=1)
    errors = []
    if (counts < 0).any() or (totals % features).any() or ((totals > 0) != linear).any():
        errors.append("weight_histogram does not count the weights of the linear layers")
    if not (np.isfinite(greatest) == inside).all() or (greatest[inside] < 0).any():
        errors.append("weight_feature_max is not of the linear layers' features")
    return errors


def step_errors(own: dict[str, np.ndarray], covered: np.ndarray) -> list[str]:
    """What contradicts each other in one step's statistics, in words.

    Args:
        own: the statistics, shapes (layer, ...), and ``layer``, ``features`` and the bins' edges.
        covered: which images they cover, shape (image,).
    """
    count, low, high = own["value_count"], own["value_min"], own["value_max"]
    some = count > 0
    none_lost = (own["non_finite_count"] == 0)[:, None]
    inside = np.arange(own["feature_min"].shape[1]) < own["features"][:, None]
    slack = _ROUNDING * np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    by_image = ("image_min", "image_max", "image_mean", "image_std")
    by_feature = ("feature_min", "feature_max", "feature_mean_min", "feature_mean_max")
    with np.errstate(all="ignore"):
        wrong = {
            "histogram does not add up to value_count": (own["histogram"] < 0).any(axis=1)
            | (own["histogram"].sum(axis=1) != count),
            "a count is below 0, or nothing was counted": (count < 0)
            | (own["non_finite_count"] < 0)
            | (count + own["non_finite_count"] == 0),
            "value_min and value_max are not in the outermost bins of the histogram": some
            & _outside_bins(own),
            "value_mean is not between value_min and value_max": some
            & ~((own["value_mean"] >= low - slack) & (own["value_mean"] <= high + slack)),
            "value_std is more than half the range": some
            & ~((own["value_std"] >= 0) & (own["value_std"] <= (high - low) / 2 + slack)),
            **{
                f"{name} is not of the images that are covered": (
                    (np.isfinite(own[name]) != covered) & (none_lost | ~covered)
                ).any(axis=1)
                for name in by_image
            },
            **{
                f"{name} is not of the layer's features": (
                    (np.isfinite(own[name]) != inside) & (none_lost | ~inside)
                ).any(axis=1)
                for name in by_feature
            },
            "image_min and image_max do not have value_min and value_max as extremes": some
            & (
                (_least(own["image_min"]) != low)
                | (_greatest(own["image_max"]) != high)
                | (own["image_min"] > own["image_max"]).any(axis=1)
            ),
            "image_mean does not have value_mean as its mean": some
            & none_lost[:, 0]
            & ~(np.abs(_mean(own["image_mean"]) - own["value_mean"]) <= slack),
            "feature_min and feature_max do not have value_min and value_max as extremes": some
            & ((_least(own["feature_min"]) != low) | (_greatest(own["feature_max"]) != high)),
            "feature_mean_min and feature_mean_max are not between feature_min and feature_max": (
                (own["feature_mean_min"] < own["feature_min"] - slack[:, None])
                | (own["feature_mean_max"] > own["feature_max"] + slack[:, None])
                | (own["feature_mean_min"] > own["feature_mean_max"] + slack[:, None])
            ).any(axis=1),
        }
    return [
        f"{own['layer'][layers.argmax()]}: {what}" + _others(int(layers.sum()))
        for what, layers in wrong.items()
        if layers.any()
    ]


def _others(count: int) -> str:
    return f" (and {count - 1} more layers)" if count > 1 else ""


def _outside_bins(own: dict[str, np.ndarray]) -> np.ndarray:
    """Layers whose extremes are not in the first and last bin that counted something."""
    counted = own["histogram"] > 0
    first = counted.argmax(axis=1)
    last = counted.shape[1] - 1 - counted[:, ::-1].argmax(axis=1)
    edges = own["bin_low"], own["bin_high"]
    return ~(
        (own["value_min"] >= edges[0][first])
        & (own["value_min"] <= edges[1][first])
        & (own["value_max"] >= edges[0][last])
        & (own["value_max"] <= edges[1][last])
    )


def _least(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), np.inf, values).min(axis=1)


def _greatest(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), -np.inf, values).max(axis=1)


def _mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    return np.where(known, values, 0).sum(axis=1, dtype=np.float64) / known.sum(axis=1).clip(min=1)

"""What statistics satisfy among themselves, whatever values they are of.

All functions take variables of a store by name, and return what contradicts each other, in words.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from calibzarr.statistics.histogram import LogBins

_ROUNDING = 1e-5  # of means that were kept in float32, relative to the range


def extent_errors(
    values: Mapping[str, np.ndarray], steps: Sequence[int], num_images: int, bins: LogBins
) -> list[str]:
    """What is wrong with what the statistics cover.

    Args:
        values: the coordinates of layers and bins, ``collected`` and ``collected_image``, and
            ``observed`` and the counts, shape (layer, step).
        steps: that they are said to cover.
        num_images: that they are said to cover.
        bins: that they are said to have.
    """
    observed, collected, features = values["observed"], values["collected"], values["features"]
    others = observed[:, :-1][:, ~collected[:-1]]  # calls that the caching pass alone saw
    seen = values["value_count"] + values["non_finite_count"]
    covered = int(values["collected_image"].sum())
    edges = ((values["bin_low"], bins.low), (values["bin_high"], bins.high))
    wrong = {
        f"collected is not of steps {list(steps)}": np.flatnonzero(collected).tolist()
        != list(steps),
        f"collected_image has {covered} images, not {num_images}": covered != num_images,
        "the edges of the bins are not those of the manifest": not all(
            np.array_equal(stored, right) for stored, right in edges
        ),
        "the names of the layers are not all different": len({"", *values["layer"].tolist()})
        <= len(features),
        "a layer has no features": (features < 1).any(),
        "a layer was not observed at a step that was collected": not observed[:, collected].all(),
        "a layer was observed at some of the other calls, and not at all": (
            others.any(axis=1) & ~others.all(axis=1)
        ).any(),
        "a layer was observed at the final state, which is no call": observed[:, -1:][
            :, ~collected[-1:]
        ].any(),
        "a layer was not observed as often at every step": (
            observed & (seen != seen.max(axis=1, keepdims=True, initial=0))
        ).any(),
        "there are counts of steps that were not collected": seen[~observed].any(),
        "a value_count is no multiple of images and features": (
            seen % (features.clip(1) * max(covered, 1))[:, None]
        ).any(),
    }
    return [error for error, found in wrong.items() if found]


def weight_errors(values: Mapping[str, np.ndarray]) -> list[str]:
    """What is wrong with the statistics of weights, beside coordinates of layers."""
    counts, greatest = values["weight_histogram"], values["weight_feature_max"]
    features, linear = values["features"], values["role"] == "input"
    inside = _inside(values, greatest) & linear[:, None]
    totals = counts.sum(axis=1)
    wrong = {
        "weight_histogram does not count the weights of the linear layers": (counts < 0).any()
        or (totals % features.clip(1)).any()
        or ((totals > 0) != linear).any(),
        "weight_feature_max is not of the linear layers' features": (
            np.isfinite(greatest) != inside
        ).any()
        or (greatest[inside] < 0).any(),
    }
    return [error for error, found in wrong.items() if found]


def step_errors(values: Mapping[str, np.ndarray]) -> list[str]:
    """What is wrong with one step's statistics, and the first layer where it is.

    Args:
        values: the statistics, shapes (layer, ...), and ``layer``, ``features``,
            ``collected_image`` and the edges of the bins.
    """
    with np.errstate(all="ignore"):
        wrong = {**_value_errors(values), **_part_errors(values)}
    return [
        f"{values['layer'][layers.argmax()]}: {error}"
        + (f" (and {layers.sum() - 1} more layers)" if layers.sum() > 1 else "")
        for error, layers in wrong.items()
        if layers.any()
    ]


def unobserved_errors(values: Mapping[str, np.ndarray]) -> list[str]:
    """Statistics of layers that were not observed: they are 0, or not a number."""
    return [
        f"{name} has values of layers that were not observed"
        for name, array in values.items()
        if not (np.isnan(array) if array.dtype.kind == "f" else array == 0).all()
    ]


def _inside(values: Mapping[str, np.ndarray], by_feature: np.ndarray) -> np.ndarray:
    """Which features each layer has, shape (layer, feature)."""
    return np.asarray(np.arange(by_feature.shape[1]) < values["features"][:, None])


def _slack(values: Mapping[str, np.ndarray]) -> np.ndarray:
    """By how much a mean may be off, activation units, shape (layer,)."""
    greatest = np.maximum(np.abs(values["value_min"]), np.abs(values["value_max"]))
    return np.asarray(_ROUNDING * greatest.astype(np.float64))


def _value_errors(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Errors of histograms, counts and moments of all values; where they are, shape (layer,)."""
    histogram, count, lost = (
        values[name] for name in ("histogram", "value_count", "non_finite_count")
    )
    least, most, mean, std = (values[f"value_{name}"] for name in ("min", "max", "mean", "std"))
    some, slack = count > 0, _slack(values)
    first = (histogram > 0).argmax(axis=1)
    last = histogram.shape[1] - 1 - (histogram[:, ::-1] > 0).argmax(axis=1)
    low, high = values["bin_low"], values["bin_high"]
    in_ends = (least >= low[first]) & (least <= high[first])
    in_ends &= (most >= low[last]) & (most <= high[last])
    return {
        "histogram does not add up to value_count": (histogram < 0).any(axis=1)
        | (histogram.sum(axis=1) != count),
        "a count is below 0, or nothing was counted": (count < 0)
        | (lost < 0)
        | (count + lost == 0),
        "value_min and value_max are not in the outermost bins of the histogram": some & ~in_ends,
        "value_mean is not between value_min and value_max": some
        & ~((mean >= least - slack) & (mean <= most + slack)),
        "value_std is more than half the range": some
        & ~((std >= 0) & (std <= (most - least) / 2 + slack)),
    }


def _part_errors(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Errors of the statistics by image and by feature; where they are, shape (layer,)."""
    some, whole = values["value_count"] > 0, values["non_finite_count"] == 0
    slack, wrong = _slack(values), {}
    covered = values["collected_image"][None]
    inside = _inside(values, values["feature_min"])
    for part, names, expected, whose in (
        ("image", ("min", "max", "mean", "std"), covered, "images that are covered"),
        ("feature", ("min", "max", "mean_min", "mean_max"), inside, "layer's features"),
    ):
        for name in (f"{part}_{name}" for name in names):
            differs = np.isfinite(values[name]) != expected
            wrong[f"{name} is not of the {whose}"] = (
                differs
                & (whole[:, None] | ~expected)  # values that were lost may be all there were
            ).any(axis=1)
        low, high = values[f"{part}_min"], values[f"{part}_max"]
        least = np.where(np.isnan(low), np.inf, low).min(axis=1)
        most = np.where(np.isnan(high), -np.inf, high).max(axis=1)
        wrong[f"{part}_min and {part}_max do not have value_min and value_max as extremes"] = (
            some & ((least != values["value_min"]) | (most != values["value_max"]))
        ) | (low > high).any(axis=1)
    means = np.where(np.isfinite(values["image_mean"]), values["image_mean"], 0)
    mean = means.sum(axis=1, dtype=np.float64) / max(covered.sum(), 1)
    wrong["image_mean does not have value_mean as its mean"] = (some & whole) & ~(
        np.abs(mean - values["value_mean"]) <= slack
    )
    mean_low, mean_high = values["feature_mean_min"], values["feature_mean_max"]
    slack = slack[:, None]
    wrong["feature_mean_min and feature_mean_max are not between feature_min and feature_max"] = (
        (mean_low < values["feature_min"] - slack)
        | (mean_high > values["feature_max"] + slack)
        | (mean_low > mean_high + slack)
    ).any(axis=1)
    return wrong

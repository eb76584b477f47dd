"""Running statistics of layers: they grow by updates, and parts merge to the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.reduction import Reduction

# How each array of two parts becomes the whole's. Dimensions are (layer, step, ...).
_ADDED = (
    "histogram",
    "non_finite_count",
    "value_count",
    "value_sum",
    "square_sum",
    "feature_count",
    "feature_min_sum",
    "feature_max_sum",
)
_LOWEST = ("value_min", "feature_min")
_HIGHEST = ("value_max", "feature_max")
_BY_IMAGE = ("image_min", "image_max", "image_mean", "image_std")  # NaN where not observed


@dataclass
class Statistics:
    """What is known of every layer at every step, from any number of images in any order.

    Attributes:
        bins: of the histograms; parts merge only if theirs are equal.
        steps: indices of the states, in the order of the arrays' step dimension.
        images: indices of the store's images, in the order of the arrays' image dimension.
        covered: what was observed, shape (image, step), bool.
        arrays: by name; sums in float64, counts in int64, extremes in float32.
    """

    bins: LogBins
    steps: tuple[int, ...]
    images: tuple[int, ...]
    covered: np.ndarray
    arrays: dict[str, np.ndarray]

    @classmethod
    def empty(
        cls,
        bins: LogBins,
        num_layers: int,
        steps: Sequence[int],
        images: Sequence[int],
        features: int,
    ) -> "Statistics":
        """Statistics of nothing.

        Args:
            bins: of the histograms.
            num_layers: observed places in the network.
            steps: indices of the states that there is to be room for.
            images: the same of the images.
            features: the widest layer's width.
        """
        flat = (num_layers, len(steps))
        image, feature = (*flat, len(images)), (*flat, features)
        arrays: dict[str, np.ndarray] = {
            "histogram": np.zeros((*flat, bins.count), np.int64),
            "non_finite_count": np.zeros(flat, np.int64),
            "value_count": np.zeros(flat, np.int64),
            "value_sum": np.zeros(flat, np.float64),
            "square_sum": np.zeros(flat, np.float64),
            "feature_count": np.zeros(feature, np.int32),
            "feature_min_sum": np.zeros(feature, np.float64),
            "feature_max_sum": np.zeros(feature, np.float64),
            "value_min": np.full(flat, np.inf, np.float32),
            "value_max": np.full(flat, -np.inf, np.float32),
            "feature_min": np.full(feature, np.inf, np.float32),
            "feature_max": np.full(feature, -np.inf, np.float32),
            **{name: np.full(image, np.nan, np.float32) for name in _BY_IMAGE},
        }
        covered = np.zeros((len(images), len(steps)), bool)
        return cls(bins, tuple(steps), tuple(images), covered, arrays)

    def update(
        self, layers: Sequence[int], step: int, images: Sequence[int], reduction: Reduction
    ) -> None:
        """Add a batch's values.

        Args:
            layers: those that these values are the input (or output) of.
            step: index of the state, one of ``steps``.
            images: indices of the batch's images in the store.
            reduction: of the values.
        """
        place = self.steps.index(step)
        with np.errstate(invalid="ignore"):  # an image without a finite value has no mean
            mean = reduction.value_sum / reduction.value_count
            variance = reduction.square_sum / reduction.value_count - mean**2
        low, high = reduction.feature_min, reduction.feature_max
        by_image = (
            _or_nan(low.min(axis=1)),
            _or_nan(high.max(axis=1)),
            mean,
            np.sqrt(variance.clip(min=0)),
        )
        known = np.isfinite(low)  # an image may have no finite value of a feature
        by_feature = {
            "feature_count": known.sum(axis=0, dtype=np.int32),
            "feature_min_sum": np.where(known, low, 0).sum(axis=0, dtype=np.float64),
            "feature_max_sum": np.where(known, high, 0).sum(axis=0, dtype=np.float64),
            "feature_min": low.min(axis=0),
            "feature_max": high.max(axis=0),
        }
        added = {
            "histogram": reduction.histogram,
            "non_finite_count": reduction.non_finite,
            "value_count": reduction.value_count.sum(),
            "value_sum": reduction.value_sum.sum(),
            "square_sum": reduction.square_sum.sum(),
        }
        own, rows = self.arrays, [self.images.index(image) for image in images]
        for layer in layers:  # those that share the values: four at most
            for name, amount in added.items():
                own[name][layer, place] += amount
            for name, values in by_feature.items():
                before = own[name][layer, place, : low.shape[1]]
                combine = {"feature_min": np.minimum, "feature_max": np.maximum}.get(name, np.add)
                combine(before, values, out=before)
            for name, values in zip(_BY_IMAGE, by_image, strict=True):
                own[name][layer, place, rows] = values
            own["value_min"][layer, place] = min(own["value_min"][layer, place], low.min())
            own["value_max"][layer, place] = max(own["value_max"][layer, place], high.max())

    def merge(self, other: "Statistics") -> None:
        """Add what ``other`` observed.

        Raises:
            ValueError: if the two have other bins, steps or sizes, or observed the same twice.
        """
        if self.bins != other.bins:
            raise ValueError(f"histograms of {self.bins} and of {other.bins} cannot be added")
        shapes = {name: array.shape for name, array in self.arrays.items()}
        others = {name: array.shape for name, array in other.arrays.items()}
        if (self.steps, self.images, shapes) != (other.steps, other.images, others):
            raise ValueError("statistics of other layers, steps or images cannot be merged")
        if (self.covered & other.covered).any():
            image, step = np.argwhere(self.covered & other.covered)[0]
            raise ValueError(
                f"image {self.images[image]} was observed at step {self.steps[step]} by both"
            )
        for name in _ADDED:
            self.arrays[name] += other.arrays[name]
        for name in _LOWEST:
            np.minimum(self.arrays[name], other.arrays[name], out=self.arrays[name])
        for name in _HIGHEST:
            np.maximum(self.arrays[name], other.arrays[name], out=self.arrays[name])
        for name in _BY_IMAGE:
            np.copyto(self.arrays[name], other.arrays[name], where=~np.isnan(other.arrays[name]))
        self.covered |= other.covered

    def placed(self, steps: Sequence[int], images: Sequence[int]) -> "Statistics":
        """The same with room for other steps and images, of which nothing is known yet.

        Args:
            steps: increasing; those that were observed among them.
            images: increasing; those that were observed among them.
        """
        num_layers, _, features = self.arrays["feature_min"].shape
        other = Statistics.empty(self.bins, num_layers, steps, images, features)
        rows, places = (np.flatnonzero(self.covered.any(axis=axis)) for axis in (1, 0))
        new_rows = np.searchsorted(images, np.take(self.images, rows))
        new_places = np.searchsorted(steps, np.take(self.steps, places))
        for name, array in self.arrays.items():
            if name in _BY_IMAGE:
                other.arrays[name][:, new_places[:, None], new_rows] = array[
                    :, places[:, None], rows
                ]
            else:
                other.arrays[name][:, new_places] = array[:, places]
        other.covered[np.ix_(new_rows, new_places)] = self.covered[np.ix_(rows, places)]
        return other

    def derived(self) -> Mapping[str, np.ndarray]:
        """The published variables, by their names in the store; shapes (layer, step, ...).

        What was not observed is NaN, or a count of 0.
        """
        own = self.arrays
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = own["value_sum"] / own["value_count"]
            variance = own["square_sum"] / own["value_count"] - mean**2
            feature_means = {  # 0 / 0 where there is no such feature, or nothing was observed
                "feature_mean_min": own["feature_min_sum"] / own["feature_count"],
                "feature_mean_max": own["feature_max_sum"] / own["feature_count"],
            }
        return {
            **{name: own[name] for name in ("histogram", "non_finite_count", "value_count")},
            "value_min": _or_nan(own["value_min"]),
            "value_max": _or_nan(own["value_max"]),
            "value_mean": mean,
            "value_std": np.sqrt(variance.clip(min=0)),
            **{name: own[name] for name in _BY_IMAGE},
            "feature_min": _or_nan(own["feature_min"]),
            "feature_max": _or_nan(own["feature_max"]),
            **{name: values.astype(np.float32) for name, values in feature_means.items()},
        }

    @classmethod
    def from_derived(
        cls,
        bins: LogBins,
        steps: Sequence[int],
        images: Sequence[int],
        derived: Mapping[str, np.ndarray],
    ) -> "Statistics":
        """The inverse of :meth:`derived`, where all images cover all steps.

        Means are turned into sums again.

        Args:
            bins: of the histograms.
            steps: indices of the states.
            images: indices of the images.
            derived: as :meth:`derived` gives it.
        """
        count = derived["value_count"]
        mean = np.where(count > 0, derived["value_mean"], 0)
        std = np.where(count > 0, derived["value_std"], 0)
        feature_count = np.where(np.isnan(derived["feature_mean_min"]), 0, len(images))
        arrays = {
            **{name: derived[name].copy() for name in ("histogram", "non_finite_count")},
            "value_count": count.copy(),
            "value_sum": mean * count,
            "square_sum": (std**2 + mean**2) * count,
            "feature_count": feature_count.astype(np.int32),
            **{
                f"feature_{end}_sum": np.nan_to_num(derived[f"feature_mean_{end}"].astype(float))
                * feature_count
                for end in ("min", "max")
            },
            **{name: _or_infinity(derived[name], np.inf) for name in _LOWEST},
            **{name: _or_infinity(derived[name], -np.inf) for name in _HIGHEST},
            **{name: derived[name].copy() for name in _BY_IMAGE},
        }
        covered = np.ones((len(images), len(steps)), dtype=bool)
        return cls(bins, tuple(steps), tuple(images), covered, arrays)


def _or_nan(extremes: np.ndarray) -> np.ndarray:
    return np.where(np.isinf(extremes), np.nan, extremes).astype(np.float32)


def _or_infinity(extremes: np.ndarray, infinity: float) -> np.ndarray:
    return np.where(np.isnan(extremes), infinity, extremes).astype(np.float32)

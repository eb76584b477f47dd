"""Running statistics of layers: they grow by updates, and parts merge to the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.reduction import Reduction


@dataclass(frozen=True)
class Quantity:
    """One of the arrays that running statistics are made of.

    Attributes:
        name: of the array; published ones have it in the store as well.
        dim: third dimension, after (layer, step): ``bin``, ``feature`` or ``image``; "" if none.
        dtype: of the values.
        initial: value of what was not observed; combining with it changes nothing.
        combine: how the values of two parts become the whole's. Of ``image`` no two parts have
            the same, and ``fmax`` takes the one that is not NaN.
        published: whether it is stored as it is, infinities as NaN; others are derived from.
    """

    name: str
    dim: str
    dtype: str
    initial: float
    combine: np.ufunc
    published: bool = True

    def shape(self, num_layers: int, num_steps: int, extents: Mapping[str, int]) -> tuple[int, ...]:
        """Shape of the array, where ``extents`` are of the third dimensions by their names."""
        return (num_layers, num_steps, *([extents[self.dim]] if self.dim else []))


QUANTITIES = (
    Quantity("histogram", "bin", "int64", 0, np.add),
    Quantity("non_finite_count", "", "int64", 0, np.add),
    Quantity("value_count", "", "int64", 0, np.add),
    Quantity("value_sum", "", "float64", 0, np.add, published=False),
    Quantity("square_sum", "", "float64", 0, np.add, published=False),
    Quantity("feature_count", "feature", "int32", 0, np.add, published=False),
    Quantity("feature_min_sum", "feature", "float64", 0, np.add, published=False),
    Quantity("feature_max_sum", "feature", "float64", 0, np.add, published=False),
    Quantity("value_min", "", "float32", np.inf, np.minimum),
    Quantity("value_max", "", "float32", -np.inf, np.maximum),
    Quantity("feature_min", "feature", "float32", np.inf, np.minimum),
    Quantity("feature_max", "feature", "float32", -np.inf, np.maximum),
    Quantity("image_min", "image", "float32", np.nan, np.fmax),
    Quantity("image_max", "image", "float32", np.nan, np.fmax),
    Quantity("image_mean", "image", "float32", np.nan, np.fmax),
    Quantity("image_std", "image", "float32", np.nan, np.fmax),
)


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
            num_layers: of the network.
            steps: indices of the states that there is to be room for.
            images: the same of the images.
            features: the widest layer's width.
        """
        extents = {"bin": bins.count, "feature": features, "image": len(images)}
        arrays = {
            quantity.name: np.full(
                quantity.shape(num_layers, len(steps), extents), quantity.initial, quantity.dtype
            )
            for quantity in QUANTITIES
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
        position = self.steps.index(step)
        within: dict[str, Any] = {
            "": (),
            "bin": (slice(None),),
            "feature": (slice(reduction.feature_min.shape[1]),),
            "image": (_slice_or_indices([self.images.index(image) for image in images]),),
        }
        combined = [
            (self.arrays[quantity.name], within[quantity.dim], quantity.combine, values)
            for quantity, values in zip(QUANTITIES, _observed(reduction), strict=True)
        ]
        for layer in layers:  # those that share the values: four at most
            for array, rest, combine, values in combined:
                index = layer, position, *rest
                array[index] = combine(array[index], values)

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
        for quantity in QUANTITIES:
            array = self.arrays[quantity.name]
            quantity.combine(array, other.arrays[quantity.name], out=array)
        self.covered |= other.covered

    def placed(self, steps: Sequence[int], images: Sequence[int]) -> "Statistics":
        """The same with room for other steps and images, of which nothing is known yet.

        Args:
            steps: increasing; those that were observed among them.
            images: increasing; those that were observed among them.
        """
        num_layers, _, features = self.arrays["feature_min"].shape
        other = Statistics.empty(self.bins, num_layers, steps, images, features)
        old_images, old_steps = (np.flatnonzero(self.covered.any(axis=axis)) for axis in (1, 0))
        new_images = np.searchsorted(images, np.take(self.images, old_images))
        new_steps = np.searchsorted(steps, np.take(self.steps, old_steps))
        for quantity in QUANTITIES:
            source, target = self.arrays[quantity.name], other.arrays[quantity.name]
            if quantity.dim == "image":
                target[:, new_steps[:, None], new_images] = source[
                    :, old_steps[:, None], old_images
                ]
            else:
                target[:, new_steps] = source[:, old_steps]
        other.covered[np.ix_(new_images, new_steps)] = self.covered[np.ix_(old_images, old_steps)]
        return other

    def derived(self) -> Mapping[str, np.ndarray]:
        """The published variables, by their names in the store; shapes (layer, step, ...).

        What was not observed is NaN, or a count of 0.
        """
        arrays = self.arrays
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = arrays["value_sum"] / arrays["value_count"]
            variance = arrays["square_sum"] / arrays["value_count"] - mean**2
            feature_means = {  # 0 / 0 where there is no such feature, or nothing was observed
                "feature_mean_min": arrays["feature_min_sum"] / arrays["feature_count"],
                "feature_mean_max": arrays["feature_max_sum"] / arrays["feature_count"],
            }
        published = {
            quantity.name: _or_nan(arrays[quantity.name])
            if np.isinf(quantity.initial)
            else arrays[quantity.name]
            for quantity in QUANTITIES
            if quantity.published
        }
        return {
            **published,
            "value_mean": mean,
            "value_std": np.sqrt(variance.clip(min=0)),
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
            "value_sum": mean * count,
            "square_sum": (std**2 + mean**2) * count,
            "feature_count": feature_count.astype(np.int32),
            **{
                f"feature_{end}_sum": np.nan_to_num(derived[f"feature_mean_{end}"].astype(float))
                * feature_count
                for end in ("min", "max")
            },
        }
        for quantity in QUANTITIES:
            if quantity.published:
                values = derived[quantity.name].copy()
                if np.isinf(quantity.initial):
                    values[np.isnan(values)] = quantity.initial
                arrays[quantity.name] = values
        covered = np.ones((len(images), len(steps)), dtype=bool)
        return cls(bins, tuple(steps), tuple(images), covered, arrays)


def _observed(reduction: Reduction) -> tuple[Any, ...]:
    """A batch's values of all quantities, in their order; shapes are of the third dimension."""
    with np.errstate(invalid="ignore"):  # an image without a finite value has no mean
        mean = reduction.value_sum / reduction.value_count
        variance = reduction.square_sum / reduction.value_count - mean**2
    low, high = reduction.feature_min, reduction.feature_max
    known = np.isfinite(low)  # an image may have no finite value of a feature
    values = {
        "histogram": reduction.histogram,
        "non_finite_count": reduction.non_finite,
        "value_count": reduction.value_count.sum(),
        "value_sum": reduction.value_sum.sum(),
        "square_sum": reduction.square_sum.sum(),
        "feature_count": known.sum(axis=0, dtype=np.int32),
        "feature_min_sum": np.where(known, low, 0).sum(axis=0, dtype=np.float64),
        "feature_max_sum": np.where(known, high, 0).sum(axis=0, dtype=np.float64),
        "value_min": low.min(),
        "value_max": high.max(),
        "feature_min": low.min(axis=0),
        "feature_max": high.max(axis=0),
        "image_min": _or_nan(low.min(axis=1)),
        "image_max": _or_nan(high.max(axis=1)),
        "image_mean": mean.astype(np.float32),
        "image_std": np.sqrt(variance.clip(min=0)).astype(np.float32),
    }
    return tuple(values[quantity.name] for quantity in QUANTITIES)


def _slice_or_indices(indices: list[int]) -> slice | list[int]:
    """The same indices, as a slice where possible: NumPy is faster with one."""
    whole = slice(indices[0], indices[-1] + 1)
    return whole if indices == list(range(whole.start, whole.stop)) else indices


def _or_nan(extremes: np.ndarray) -> np.ndarray:
    return np.where(np.isinf(extremes), np.nan, extremes).astype(np.float32)

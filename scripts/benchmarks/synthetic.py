"""Statistics like those of a real model, at any size, without one."""

from collections.abc import Sequence

import numpy as np

from calibzarr.models.base import Layer
from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.reduction import Reduction
from calibzarr.statistics.running import Statistics


def counts(
    random: np.random.Generator, bins: LogBins, scale: float, number: float, *, heavy: bool
) -> np.ndarray:
    """Counts of about ``number`` values, with their noise, shape (bin,), int64.

    Args:
        random: source of the noise.
        bins: of the histogram.
        scale: of the values.
        heavy: tails of Student's t with three degrees of freedom, else those of the logistic.
        number: of values; more of them reach bins nearer to zero.
    """
    edges = np.append(bins.low, np.inf).clip(-1e100, 1e100) / scale
    if heavy:
        x = edges / np.sqrt(3)
        below = 0.5 + (np.arctan(x) + x / (1 + x * x)) / np.pi
    else:
        below = 0.5 + np.tanh(edges / 2) / 2
    return random.poisson(number * np.diff(below).clip(min=0))


def histograms(num_layers: int, num_steps: int, bins: LogBins, number: float) -> np.ndarray:
    """Histograms of layers at steps, wider from layer to layer and narrower from step to step.

    Returns:
        Shape (layer, step, bin), int64.
    """
    random = np.random.default_rng(0)
    result = np.zeros((num_layers, num_steps, bins.count), dtype=np.int64)
    for layer in range(num_layers):
        for step in range(num_steps):
            scale = 2 ** (layer % 9 - 4 - step / num_steps)
            result[layer, step] = counts(random, bins, scale, number, heavy=bool(layer % 2))
    return result


def samples(num_arrays: int, length: int) -> np.ndarray:
    """Sampled values of different scales, every other array with heavy tails.

    Returns:
        Shape (array, value), float32.
    """
    random = np.random.default_rng(0)
    values = random.standard_normal((num_arrays, length))
    values[1::2] = random.standard_t(3, values[1::2].shape)
    return (values * 2.0 ** (np.arange(num_arrays)[:, None] % 9 - 4)).astype(np.float32)


def statistics(
    layers: Sequence[Layer], steps: Sequence[int], num_images: int, tokens: int, bins: LogBins
) -> Statistics:
    """Statistics of layers that share nothing, so nothing is stored once for several.

    Args:
        layers: of the model.
        steps: indices of the states.
        num_images: observed images.
        tokens: of an image at every layer.
        bins: of the histograms.
    """
    random = np.random.default_rng(0)
    features = max(layer.features for layer in layers)
    result = Statistics.empty(bins, len(layers), steps, range(num_images), features)
    for index, layer in enumerate(layers):
        scale = 2 ** random.uniform(-4, 5)
        number = tokens * layer.features
        for step in steps:
            histogram = counts(random, bins, scale, num_images * number, heavy=bool(index % 2))
            means = random.normal(0, scale / 10, num_images)
            spread = random.uniform(1, 1.2, (num_images, 1)).astype(np.float32)
            low, high = (
                (end * scale * random.lognormal(1, 0.5, layer.features)).astype(np.float32)
                for end in (-1, 1)
            )
            reduction = Reduction(
                histogram=histogram,
                non_finite=0,
                value_count=np.full(num_images, number),
                value_sum=number * means,
                square_sum=number * (means**2 + random.normal(scale, scale / 10, num_images) ** 2),
                feature_min=low * spread,
                feature_max=high * spread,
            )
            result.update([index], step, range(num_images), reduction)
    result.covered[:] = True
    return result


def weights(layers: Sequence[Layer], bins: LogBins) -> dict[str, np.ndarray]:
    """Values of the variables about weights, for square layers."""
    random = np.random.default_rng(1)
    features = max(layer.features for layer in layers)
    greatest = np.full((len(layers), features), np.nan, dtype=np.float32)
    histogram = np.zeros((len(layers), bins.count), dtype=np.int64)
    for index, layer in enumerate(layers):
        if layer.role == "input":
            histogram[index] = counts(random, bins, 0.03, layer.features**2, heavy=False)
            greatest[index, : layer.features] = 0.03 * random.lognormal(1, 0.5, layer.features)
    return {"weight_histogram": histogram, "weight_feature_max": greatest}

"""What analyzing and recommending cost, in time and in memory, against a loop over layers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from benchmarks import data, loop_analysis, synthetic
from benchmarks.measure import Entry, Figure, Settings, interleave, peak_memory
from calibzarr.advice import analysis
from calibzarr.collecting import collector
from calibzarr.models.base import Layer
from calibzarr.quantization.expected_error import mean_power
from calibzarr.statistics.histogram import BINS, LogBins, representative
from calibzarr.statistics.running import Statistics
from calibzarr.storage import collected
from calibzarr.storage.commit import update_attributes

_PROJECTIONS = tuple(f"attn.{letter}_proj" for letter in "qkv")
_LINEAR_KINDS = (
    *(f"attn.{name}_proj" for name in ("q", "k", "v", "o")),
    *("mlp.fc1", "mlp.fc2"),
)
_DECIBELS = 0.5  # by which two searches of a clipping range may differ
_SAMPLE = 7  # layers: those of one stream of a block

_ANALYSIS = """
import sys
from pathlib import Path
from benchmarks import loop_analysis
from calibzarr.advice import analysis
path = Path(sys.argv[2])
if sys.argv[1] == "calibzarr":
    analysis.analyze(path)
else:
    loop_analysis.analyze(loop_analysis.read(path).isel(layer=[0]))
"""


def whole(settings: Settings) -> list[Figure]:
    """Time and memory of describing every layer, from a store on the disk."""
    with settings.scratch() as directory:
        path, size = Path(directory) / "store", _make(Path(directory) / "store", settings)
        sample = _sample(loop_analysis.read(path))
        _check(loop_analysis.analyze(sample), analysis.of_statistics(sample))
        seconds = interleave(
            {
                "calibzarr": lambda _turn: analysis.analyze(path),
                "read": lambda _turn: loop_analysis.read(path),
                "loop": lambda _turn: loop_analysis.analyze(sample),
            },
            settings.turns(3),
            settings,
        )
        peaks = {who: peak_memory(_ANALYSIS, who, path) for who in ("calibzarr", "loop")}
    gib = peaks["calibzarr"] / 2**30
    return [
        _time("analyze", "the whole analysis", seconds, sample, size, at_least=20),
        Figure(
            "analyze",
            "peak memory of the whole analysis / 4 GiB",
            [gib / 4],
            at_most=1,
            note=f"{gib:.2f} GiB in a process of its own; {size}",
        ),
        Figure(
            "analyze",
            "peak memory of the whole analysis / of the loop, which reads all that it needs first",
            [peaks["calibzarr"] / peaks["loop"]],
            note=f"the loop {peaks['loop'] / 2**30:.2f} GiB; {size}",
        ),
    ]


def _time(
    entry: str,
    what: str,
    seconds: Mapping[str, np.ndarray],
    sample: xr.Dataset,
    size: "_Size",
    at_least: float | None = None,
) -> Figure:
    """How many times longer a loop over all layers takes than calibzarr does."""
    own, measured = seconds["calibzarr"], sample.sizes["layer"]
    loop = seconds["read"] + seconds["loop"] * size.layers / measured
    return Figure(
        entry,
        f"time of {what} in a loop / calibzarr",
        loop / own,
        at_least=at_least,
        note=f"{np.median(own):.2g} s, the loop {np.median(loop):.3g} s, of which "
        f"{np.median(seconds['read']):.2g} s to read and {measured} layers measured; {size}",
    )


def _sample(statistics: xr.Dataset) -> xr.Dataset:
    """Layers of one stream of a block in the middle, in memory."""
    first = statistics.sizes["layer"] // _SAMPLE // 2 * _SAMPLE
    return statistics.isel(layer=slice(first, first + _SAMPLE)).copy(deep=True)


def _check(loop: Mapping[str, np.ndarray], own: xr.Dataset) -> None:
    """That the loop finds what calibzarr does; no ratio means anything else."""
    for name, values in loop.items():
        expected = own[name].values
        if not np.allclose(values, expected, *_tolerances(name), equal_nan=True):
            raise RuntimeError(f"the loop and calibzarr disagree on {name}: {values}, {expected}")


def _tolerances(name: str) -> tuple[float, float]:
    """By how much a variable may differ, relatively and absolutely."""
    return (0, _DECIBELS) if name.endswith("_db") else (1e-4, 1e-12)


@dataclass(frozen=True)
class _Size:
    """Of a synthetic store."""

    layers: int
    steps: int
    features: int
    images: int

    def __str__(self) -> str:
        return (
            f"{self.layers} layers, {self.steps + 1} steps, {self.features} features, "
            f"{self.images} images"
        )


def _make(path: Path, settings: Settings) -> _Size:
    """Write a store of statistics of every step, all layers of one width."""
    size = settings.choose(_Size(300, 50, 6144, 100), _Size(7, 3, 64, 4))
    data.create_store(path, size.images, (size.steps + 1, data.CHANNELS, 8, 8))
    update_attributes(path, {"num_steps": size.steps})
    layers, bins = _layers(size.layers, size.features), BINS
    weights = synthetic.weights(layers, bins)
    greatest = weights["weight_feature_max"]  # that which the histogram says
    reach = np.abs(_extremes(weights["weight_histogram"], bins)).max(axis=0)[:, None]
    greatest *= reach / np.fmax.reduce(greatest, axis=1, keepdims=True)
    collected.replace(
        path,
        _statistics(layers, size.steps + 1, size.images, bins),
        collector.layer_coordinates(layers),
        weights,
        {"stamp": "synthetic", "bins": asdict(bins)},
    )
    return size


def _extremes(histogram: np.ndarray, bins: LogBins) -> tuple[np.ndarray, np.ndarray]:
    """Middles of the outermost bins that hold values, shapes (...)."""
    seen, middle = histogram > 0, representative(bins.low, bins.high)
    low, high = seen.argmax(axis=-1), bins.count - 1 - seen[..., ::-1].argmax(axis=-1)
    return middle[low].astype(np.float32), middle[high].astype(np.float32)


def _layers(number: int, features: int) -> list[Layer]:
    """The first layers of blocks of two streams, as Stable Diffusion 3 has them."""

    def layer(block: str, stream: str, kind: str) -> Layer:
        role, name = "input", f"{block}.{stream}.{kind}"
        if kind == "block":
            role, name = "output", block if stream == "image" else f"{block}.{stream}"
        tied = f"{block}.{stream}.{_PROJECTIONS[0]}" if kind in _PROJECTIONS else name
        follows = "gelu" if kind == "mlp.fc2" else ""
        return Layer(name, name, block, stream, kind, role, features, name, tied, follows)

    return [
        layer(f"mm_block_{block}", stream, kind)
        for block in range(number)
        for stream in ("image", "text")
        for kind in (*_LINEAR_KINDS, "block")
    ][:number]


def _statistics(layers: list[Layer], num_steps: int, num_images: int, bins: LogBins) -> Statistics:
    """Statistics whose histograms and extremes agree, every layer with a shape of its own."""
    random = np.random.default_rng(0)
    features, shape = layers[0].features, (len(layers), num_steps)
    histogram = _histograms(random, *shape, bins, number=1e4 * num_images)
    count = histogram.sum(axis=-1)
    low, high = _extremes(histogram, bins)
    mean = histogram @ representative(bins.low, bins.high) / count

    def shares(last: int) -> np.ndarray:
        """Extremes of parts over the whole's: one part of each layer at a step has all of it."""
        own = random.standard_normal((len(layers), 1, last), dtype=np.float32)
        own = np.exp(own + 0.2 * random.standard_normal((*shape, last), dtype=np.float32))
        own /= own.max(axis=-1, keepdims=True)
        return own

    statistics = Statistics(
        bins,
        tuple(range(num_steps)),
        tuple(range(num_images)),
        np.ones((num_images, num_steps), dtype=bool),
        arrays={
            "histogram": histogram,
            "non_finite_count": np.zeros(shape, dtype=np.int64),
            "value_count": count,
            "value_sum": count * mean,
            "square_sum": count * mean_power(histogram, bins),
            "value_min": low,
            "value_max": high,
            "image_mean": (
                mean[..., None] + low[..., None] / 100 * random.standard_normal(num_images)
            ).astype(np.float32),
            "image_std": np.broadcast_to(high[..., None] / 10, (*shape, num_images)),
            "feature_count": np.float32(1),
        },
    )
    arrays = statistics.arrays
    for end, extreme in (("min", low), ("max", high)):
        arrays[f"image_{end}"] = extreme[..., None] * shares(num_images)
        arrays[f"feature_{end}"] = extreme[..., None] * shares(features)
        arrays[f"feature_{end}_sum"] = arrays[f"feature_{end}"] * np.float32(0.8)
    return statistics


def _histograms(
    random: np.random.Generator, num_layers: int, num_steps: int, bins: LogBins, number: float
) -> np.ndarray:
    """Histograms whose two sides differ from layer to layer and drift over the steps.

    Returns:
        Shape (layer, step, bin), int64.
    """
    result = np.empty((num_layers, num_steps, bins.count), dtype=np.int64)
    for layer, by_step in enumerate(result):
        scale, drift = 2.0 ** random.uniform(-4, 4), random.uniform(-2, 2)
        narrower, mirrored = 2.0 ** -random.uniform(0, 6), random.random() < 0.3
        for step, counts in enumerate(by_step):
            wide = scale * 2 ** (drift * step / num_steps)
            sides = [wide * narrower, wide]
            below, above = (
                synthetic.counts(random, bins, own, number, heavy=bool(layer % 2))
                for own in (sides[::-1] if mirrored else sides)
            )
            counts[: bins.per_sign] = below[: bins.per_sign]
            counts[bins.per_sign :] = above[bins.per_sign :]
    return result


ENTRIES: dict[str, Entry] = {"analyze": whole}

"""What observing costs in time, and what its statistics cost in bytes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import calibzarr
from benchmarks import data, replay, synthetic
from benchmarks.measure import Entry, Figure, Settings, interleave, optimised_blas
from benchmarks.old_collector import PERCENTILES
from calibzarr.collecting import collector
from calibzarr.models.base import Layer
from calibzarr.models.diffusionkit import kit
from calibzarr.models.transformer import observable_layers
from calibzarr.sampling import builder
from calibzarr.statistics.histogram import BINS, quantile
from calibzarr.statistics.running import Statistics
from calibzarr.statistics.steps import key_steps
from calibzarr.storage import collected, reading, schema


def observe_tiny(settings: Settings) -> list[Figure]:
    """Time that observers add to model calls of the embedded model."""
    calls = settings.choose(17, 2)
    return _observe("observe-tiny", replay.of_tiny(calls), settings, at_most=None)


def observe(settings: Settings) -> list[Figure]:
    """Time that observers add to model calls of a larger transformer."""
    calls = settings.choose(3 if optimised_blas() else 1, 1)
    replayed = replay.of_mid_size(calls, small=settings.quick)
    target = 0.20 if optimised_blas() else 0.10
    return _observe("observe", replayed, settings, target)


def _observe(
    entry: str, replayed: replay.Replay, settings: Settings, at_most: float | None
) -> list[Figure]:
    statistics = replayed.statistics()
    seconds = interleave(
        {
            "observed": lambda _turn: replayed.observed(statistics),
            "bare": lambda _turn: replayed.bare(),
        },
        settings.turns(15 if optimised_blas() else 7),
        settings,
    )
    num_layers, calls = len(replayed.model.layers()), len(replayed.steps)
    return [
        Figure(
            entry,
            "time that observing adds / of bare model calls",
            seconds["observed"] / seconds["bare"] - 1,
            at_most=at_most,
            note=f"{num_layers} layers, {calls} calls; {replayed.description}",
        )
    ]


def old_collector(settings: Settings) -> list[Figure]:
    """Time of replays whose values are sampled into lists, against calibzarr's."""
    calls = settings.choose(5 if optimised_blas() else 1, 1)
    replayed = replay.of_mid_size(calls, small=settings.quick)
    fractions = np.array(PERCENTILES) / 100

    def new() -> None:
        statistics = replayed.statistics()
        replayed.observed(statistics)
        histogram = statistics.arrays["histogram"]
        quantile(histogram, BINS.low, BINS.high, fractions)

    seconds = interleave(
        {
            "blocks": lambda _turn: replayed.observed_the_old_way(linears=False),
            "new": lambda _turn: new(),
            "all": lambda _turn: replayed.observed_the_old_way(linears=True),
        },
        settings.turns(5),
        settings,
    )
    num_layers = len(replayed.model.layers())
    looked_at = {"blocks": "block outputs alone", "all": "all layers"}
    return [
        Figure(
            "old-collector",
            f"time of a whole replay, the old way at {what} / calibzarr at all layers",
            seconds[way] / seconds["new"],
            note=f"{num_layers} layers, {calls} calls, percentiles too; {replayed.description}",
        )
        for way, what in looked_at.items()
    ]


def quantiles(settings: Settings) -> list[Figure]:
    """Time of quantiles of all layers and steps against a loop over sampled values."""
    num_layers, num_steps = settings.choose((300, 51), (6, 5))
    bins = BINS
    histograms = synthetic.histograms(num_layers, num_steps, bins, number=1e5)
    samples = synthetic.samples(num_steps, 10_000)
    seconds = interleave(
        {
            "histograms": lambda _turn: quantile(
                histograms, bins.low, bins.high, np.array(PERCENTILES) / 100
            ),
            "samples": lambda _turn: [
                np.percentile(samples[step], PERCENTILES)
                for _ in range(num_layers)
                for step in range(num_steps)
            ],
        },
        settings.turns(5),
        settings,
    )
    own, loop = (np.median(seconds[way]) for way in ("histograms", "samples"))
    filled = int(np.median(np.count_nonzero(histograms, axis=-1)))
    return [
        Figure(
            "quantiles",
            "time of np.percentile of 10,000 samples each / of quantile of all histograms",
            seconds["samples"] / seconds["histograms"],
            at_least=1,
            note=f"{own:.2g} s, the loop {loop:.2g} s; {num_layers} layers, {num_steps} steps, "
            f"{bins.count} bins, {filled} not empty",
        )
    ]


def bytes_of_tiny(settings: Settings) -> list[Figure]:
    """Bytes of the statistics of a small store against those of the values that they are of."""
    num_images, num_steps = settings.choose((20, 10), (12, 2))
    with settings.scratch() as directory:
        path = Path(directory) / "store"
        builder.build(path, num_images=num_images, num_steps=num_steps)
        result = collector.collect(path, num_images=num_images)
        dtype = calibzarr.open_store(path).attrs["activation_dtype"]
        stored = _bytes_of_statistics(path)
    values = result.values * np.dtype(dtype).itemsize
    places = result.num_layers * len(result.steps)
    return [
        Figure(
            "bytes",
            "bytes of statistics / of the values that they are of",
            [stored / values],
            at_most=1 / 20,
            note=f"{stored / places:.0f} against {values / places:.0f} a layer and step; "
            f"{num_images} images, {result.num_layers} layers, {len(result.steps)} steps, {dtype}",
        )
    ]


def bytes_of_sd3(settings: Settings) -> list[Figure]:
    """Bytes of synthetic statistics of Stable Diffusion 3 Medium at the key steps."""
    budget, num_images, tokens = 500e6, 100, 2 * 64 * 64
    mmdit = kit.mmdit.MMDiT(kit.config.SD3_2b)  # lazy: its weights are never computed
    every_layer = observable_layers(mmdit)
    layers = every_layer[:: settings.choose(1, 20)]
    steps = key_steps(50)
    with settings.scratch() as directory:
        path = Path(directory) / "store"
        data.create_store(path, num_images, (51, data.CHANNELS, 8, 8))
        statistics = synthetic.statistics(layers, steps, num_images, tokens, BINS)
        _write(path, statistics, layers)
        stored = _bytes_of_statistics(path) * len(every_layer) / len(layers)
    values = num_images * tokens * len(steps) * 2 * sum(layer.features for layer in every_layer)
    return [
        Figure(
            "bytes-sd3",
            "bytes of statistics / 500 MB",
            [stored / budget],
            at_most=1,
            note=f"{stored / 1e6:.0f} MB, of {values / 1e12:.1f} TB of values in float16; "
            f"{len(every_layer)} layers, {len(steps)} steps, {num_images} images of 1024 pixels, "
            f"synthetic, {len(layers)} layers measured",
        )
    ]


def _write(path: Path, statistics: Statistics, layers: Sequence[Layer]) -> None:
    weights = synthetic.weights(layers, statistics.bins)
    coordinates = collector.layer_coordinates(layers)
    collected.replace(path, statistics, coordinates, weights, {"stamp": "synthetic"})


def _bytes_of_statistics(path: Path) -> int:
    sizes = reading.bytes_on_disk(path)
    return sum(sizes[variable.name] for variable in schema.COLLECTED_VARIABLES)


ENTRIES: dict[str, Entry] = {
    "observe-tiny": observe_tiny,
    "observe": observe,
    "old-collector": old_collector,
    "quantiles": quantiles,
    "bytes": bytes_of_tiny,
    "bytes-sd3": bytes_of_sd3,
}

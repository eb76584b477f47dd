"""Numbers of bits and clipping ranges for every layer, each with the figures that decided it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from calibzarr.advice import analysis
from calibzarr.advice.analysis import TAILS, Observed
from calibzarr.advice.methods import base as bit_widths
from calibzarr.advice.methods import reasons
from calibzarr.advice.methods.base import CHOICES, Chosen, Layers, QuantizationError, decibels
from calibzarr.errors import OptionError
from calibzarr.quantization import sigma_polynomial, step_groups
from calibzarr.quantization.clipping import METHODS as CLIPPINGS
from calibzarr.quantization.clipping import clipping_range
from calibzarr.statistics.histogram import fraction_below
from calibzarr.storage import schema
from calibzarr.storage.reading import open_statistics

METHODS = ("sqnr", "budget", "range")


@dataclass(frozen=True)
class Options:
    """What a recommendation is to reach, and how.

    Attributes:
        method: ``sqnr`` for the fewest bits that meet the targets, ``budget`` for the least
            error at a mean number of bits, ``range`` for the old rule.
        activation_target: of ``sqnr``: for the activations of each layer, in dB.
        weight_target: of ``sqnr``: for the weights of each layer, in dB.
        mean_bits: of ``budget``: over activations, and over weights.
        clip: how clipping ranges are chosen, one of ``clipping.METHODS``; ``range`` has its own.
        groups: number of contiguous groups of steps in the place of the three phases.
        tolerance: how far a polynomial in sigma may exceed the clipping range that is asked for,
            over the greatest of the layer.
    """

    method: str = "sqnr"
    activation_target: float = 30.0
    weight_target: float = 20.0
    mean_bits: float | None = None
    clip: str = "mse"
    groups: int | None = None
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        allowed = {"method": METHODS, "clip": CLIPPINGS}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise OptionError(
                    f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}"
                )
        for name in ("activation_target", "weight_target", "mean_bits", "tolerance"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise OptionError(f"{name} must be a finite number, got {value:g}")
        if (self.method == "budget") != (self.mean_bits is not None):
            raise OptionError("mean_bits and the method budget go together: give both or neither")
        if not self.tolerance >= 0:
            raise OptionError(f"tolerance must be 0 or more, got {self.tolerance:g}")


def recommend(path: str | Path, **options: object) -> xr.Dataset:
    """Recommend a quantization of a store's model; see :func:`of_statistics`.

    Args:
        path: directory of the store.
        **options: as the attributes of :class:`Options`.
    """
    statistics = open_statistics(path)
    return of_statistics(statistics, Options(**options))  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Clipped:
    """Rows with a clipping range at every number of bits: shapes (..., choice).

    Attributes:
        clip_min: activation units.
        clip_max: activation units.
        noise: expected squared error over the mean square of the values.
    """

    clip_min: np.ndarray
    clip_max: np.ndarray
    noise: np.ndarray

    @classmethod
    def at(
        cls, rows: Observed, low: np.ndarray, high: np.ndarray, symmetric: bool = False
    ) -> "_Clipped":
        """With given ranges; the errors of these rows with them."""
        shape = (*rows.value_min.shape, len(CHOICES))
        low, high = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
        error = rows.error(low, high, np.array(CHOICES), symmetric)
        power = rows.power()[..., None]
        return cls(low, high, error / np.where(power > 0, power, 1))

    @classmethod
    def best(cls, rows: Observed, options: Options, symmetric: bool = False) -> "_Clipped":
        """With the ranges that the method and the way to clip give."""
        return cls.at(rows, *clipping_ranges(rows, options, symmetric), symmetric)

    def chosen(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lower end, upper end and SQNR in dB of the chosen numbers of bits, shape (...)."""
        low, high, noise = (
            _at_choice(array, index) for array in (self.clip_min, self.clip_max, self.noise)
        )
        return low, high, decibels(noise)


def _at_choice(array: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.asarray(np.take_along_axis(array, index[..., None], axis=-1)[..., 0])


def clipping_ranges(
    rows: Observed, options: Options, symmetric: bool = False, bits: tuple[int, ...] = CHOICES
) -> tuple[np.ndarray, np.ndarray]:
    """Clipping ranges as the options want them.

    Args:
        rows: what was observed, shape (...).
        options: of the recommendation.
        symmetric: whether the levels are.
        bits: numbers of bits that a range is wanted for.

    Returns:
        Lower and upper ends, each of shape (..., len(bits)), activation units.
    """
    if options.method == "range" and not symmetric:
        low, high = np.moveaxis(rows.quantile(np.array(TAILS)), -1, 0)
        clips = bit_widths.clips_at_tails(rows.value_min, rows.value_max, low, high)
        low, high = np.where(clips, low, rows.value_min), np.where(clips, high, rows.value_max)
        shape = (*low.shape, len(bits))
        return np.broadcast_to(low[..., None], shape), np.broadcast_to(high[..., None], shape)
    return clipping_range(
        options.clip, rows.counts, rows.bins, rows.value_min, rows.value_max, bits, symmetric
    )


def of_statistics(
    statistics: xr.Dataset, options: Options, observed: Observed | None = None
) -> xr.Dataset:
    """Recommend bits and clipping ranges for every layer.

    Activations are quantized on affine levels, weights on symmetric ones for a whole tensor.
    A layer's ``activation_bits`` go with one clipping range for all steps; the worst phase
    decides. Its bits by phase go with ranges of their own. Layers q, k and v of a block get
    equal bits. A block's row speaks for all in it: it gets the most bits that its output or one
    of its linear layers needs; under ``budget``, that one of its linear layers gets.

    Args:
        statistics: of ``reading.open_statistics``.
        options: what to reach, and how.
        observed: the statistics' layers and steps, where they are in memory already.

    Returns:
        By layer: ``activation_bits``, ``weight_bits``, ``clip_min``, ``clip_max``,
        ``clip_min_fraction`` and ``clip_max_fraction`` (of the values below them), ``sqnr_db``
        over all steps, ``worst_sqnr_db`` of the worst phase, ``weight_sqnr_db``,
        ``value_min``, ``value_max``, ``value_mean``, ``value_std``, ``p01``, ``p99`` and
        ``reason``. By (layer, phase): ``phase_bits``, ``phase_clip_min``, ``phase_clip_max``,
        ``phase_sqnr_db``; 0 and NaN for a phase that was not collected. By phase:
        ``schedule_bits`` and ``schedule_sqnr_db``, one setting for the whole model;
        ``first_step``, ``end_step`` (one past the last) and ``num_collected`` steps. By (layer,
        degree): ``polynomial_min`` and ``polynomial_max``, coefficients in rising order of the
        ends of the clipping range in sigma, and by layer ``polynomial_met``. ``step`` and
        ``sigma`` are those collected; the options are an attribute.

    Raises:
        OptionError: if an option does not fit, or no layer reaches a target.
    """
    observed = observed or Observed.of(statistics)
    partition = _partition(statistics, options)
    parts = analysis.parts_of(statistics, partition)
    everything = {"all": slice(None)}
    whole, by_part = observed.over(everything), observed.over(parts)
    in_phase = np.array([place.stop - place.start for place in parts.values()])
    unknown = (np.isnan(by_part.value_min) & (in_phase > 0)).any(axis=1)
    if unknown.any():
        raise ValueError(
            f"{unknown.sum()} layers had no finite value in some phase, and cannot be quantized; "
            f"the first is {statistics.layer.values[unknown][0]}"
        )
    single, own = _Clipped.best(whole, options), _Clipped.best(by_part, options)
    weights = _Clipped.best(Observed.of_weights(statistics), options, symmetric=True)
    noise = QuantizationError(
        overall=single.noise[:, 0],
        static=_Clipped.at(by_part, single.clip_min, single.clip_max).noise,
        by_part=own.noise,
        weights=weights.noise,
    )
    layers = _layers(statistics, by_part)
    mean, std = _moments(statistics, everything)
    p01, p99 = whole.quantile(np.array(TAILS))[:, 0].T
    if options.method == "sqnr":
        targets = options.activation_target, options.weight_target
        chosen = bit_widths.by_target(noise, layers, *targets)
        why = reasons.of_target(noise, layers, chosen, list(partition), *targets)
    elif options.method == "budget":
        mean_bits = options.mean_bits or 0
        chosen = bit_widths.by_budget(noise, layers, mean_bits)
        why = reasons.of_budget(noise, layers, chosen, mean_bits)
    else:
        part_bits = bit_widths.range_rule(
            _moments(statistics, parts)[1], *np.moveaxis(by_part.quantile(np.array(TAILS)), -1, 0)
        )
        chosen = bit_widths.by_range(bit_widths.range_rule(std[:, 0], p01, p99), part_bits, layers)
        why = reasons.of_range(whole.value_min[:, 0], whole.value_max[:, 0], std[:, 0], p01, p99)
    clip_min, clip_max, sqnr = (array[:, 0] for array in single.chosen(chosen.activation[:, None]))
    phase_min, phase_max, phase_sqnr = own.chosen(chosen.by_part)
    below = _fractions(whole, clip_min, clip_max)
    if options.method == "range":  # it clips at these percentiles, whatever a bin's width
        clips = bit_widths.clips_at_tails(whole.value_min[:, 0], whole.value_max[:, 0], p01, p99)
        below = np.where(clips, TAILS[0], 0), np.where(clips, TAILS[1], 1)
    by_layer = {
        "activation_bits": np.take(CHOICES, chosen.activation),
        "weight_bits": np.take(CHOICES, chosen.weight),
        "clip_min": clip_min,
        "clip_max": clip_max,
        "clip_min_fraction": below[0],
        "clip_max_fraction": below[1],
        "sqnr_db": sqnr,
        "worst_sqnr_db": decibels(_at_choice(noise.worst, chosen.activation)),
        "weight_sqnr_db": decibels(_at_choice(noise.weights, chosen.weight)),
        "value_min": whole.value_min[:, 0],
        "value_max": whole.value_max[:, 0],
        "value_mean": mean[:, 0],
        "value_std": std[:, 0],
        "p01": p01,
        "p99": p99,
        "reason": np.array(why, dtype=object),
    }
    by_phase = {
        "phase_bits": np.where(in_phase > 0, np.take(CHOICES, chosen.by_part), 0),
        "phase_clip_min": phase_min,
        "phase_clip_max": phase_max,
        "phase_sqnr_db": phase_sqnr,
    }
    of_phases = {
        "schedule_bits": np.where(in_phase > 0, np.take(CHOICES, chosen.schedule), 0),
        "schedule_sqnr_db": decibels(
            _at_choice(noise.of_model(layers.operations), chosen.schedule)
        ),
        "first_step": np.array([steps.start for steps in partition.values()]),
        "end_step": np.array([steps.stop for steps in partition.values()]),
        "num_collected": in_phase,
    }
    return xr.Dataset(
        {
            **{name: ("layer", values) for name, values in by_layer.items()},
            **{name: (("layer", "phase"), values) for name, values in by_phase.items()},
            **{name: ("phase", values) for name, values in of_phases.items()},
            **_polynomials(statistics, observed, options, chosen),
        },
        {
            **{variable.name: statistics[variable.name] for variable in schema.LAYER_COORDINATES},
            "phase": list(partition),
            "step": statistics.step.values,
            "sigma": ("step", statistics.sigma.values),
        },
        {**statistics.attrs, "options": options},
    )


def _partition(statistics: xr.Dataset, options: Options) -> Mapping[str, range]:
    """Parts of the sampling, by name: the phases, or as many groups as are asked for."""
    if options.groups is None:
        return analysis.phases_of(statistics)
    linear = np.flatnonzero(statistics.role == "input")
    products = step_groups.gram(
        *(
            statistics[name].isel(layer=linear).values
            for name in ("feature_mean_min", "feature_mean_max")
        )
    )
    first = step_groups.contiguous_groups(products, options.groups)
    starts = [0, *(int(step) for step in statistics.step.values[first[1:]])]
    ends = [*starts[1:], int(statistics.attrs["num_steps"]) + 1]
    return {
        f"group_{number}": range(*both)
        for number, both in enumerate(zip(starts, ends, strict=True))
    }


def _layers(statistics: xr.Dataset, by_part: Observed) -> Layers:
    block, stream, name = (
        statistics[coordinate].values for coordinate in ("block", "stream", "layer")
    )
    linear = (statistics.role == "input").values
    of_block = (block[:, None] == block) & ~linear[:, None] & linear
    weights = statistics.weight_histogram.sum("bin").values
    values = by_part.counts.sum(axis=-1)
    return Layers(
        linear=linear,
        tied=np.unique(statistics.tied_group.values, return_inverse=True)[1],
        inside=of_block & ((name == block)[:, None] | (stream[:, None] == stream)),
        operations=values.sum(axis=1) / statistics.features.values * weights,
        values=values,
        weights=weights,
    )


def _moments(statistics: xr.Dataset, parts: Mapping[str, slice]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of all values of a part, each of shape (layer, part)."""
    count = statistics.value_count.values
    mean, std = (np.nan_to_num(statistics[f"value_{name}"].values) for name in ("mean", "std"))
    sums = np.stack([count, count * mean, count * (mean**2 + std**2)])
    total, first, second = (
        np.stack([own[:, part].sum(axis=1) for part in parts.values()], axis=1) for own in sums
    )
    with np.errstate(invalid="ignore"):  # a part without a collected step
        mean = first / total
        return mean, np.sqrt(np.clip(second / total - mean**2, 0, None))


def _fractions(
    whole: Observed, clip_min: np.ndarray, clip_max: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the values below the ends of a clipping range, each of shape (layer,)."""
    low, high = (
        fraction_below(whole.counts[:, 0], whole.bins.low, whole.bins.high, end)
        for end in (clip_min, clip_max)
    )
    at_ends = clip_min <= whole.value_min[:, 0], clip_max >= whole.value_max[:, 0]
    return np.where(at_ends[0], 0, low), np.where(at_ends[1], 1, high)


def _polynomials(
    statistics: xr.Dataset, observed: Observed, options: Options, chosen: Chosen
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Ends of the clipping range as polynomials in sigma, at the bits of each layer."""
    sigma = statistics.sigma.values.astype(np.float64)
    low, high = np.empty((2, *observed.value_min.shape))
    for index in np.unique(chosen.activation):
        own = chosen.activation == index
        ends = clipping_ranges(observed.at(own), options, bits=(CHOICES[index],))
        low[own], high[own] = (end[..., 0] for end in ends)
    upper = sigma_polynomial.fit(sigma, high, options.tolerance)
    lower = sigma_polynomial.fit(sigma, -low, options.tolerance)
    return {
        "polynomial_min": (("layer", "degree"), -lower.coefficients),
        "polynomial_max": (("layer", "degree"), upper.coefficients),
        "polynomial_met": (("layer",), lower.met & upper.met),
    }

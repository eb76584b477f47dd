"""What is known of every layer before its bits are chosen."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

import numpy as np
import xarray as xr

from calibzarr.advice import observed as observations
from calibzarr.advice.methods.base import Candidates, Evidence, Method
from calibzarr.advice.options import Options
from calibzarr.errors import Call, Option, OptionError, StoreError
from calibzarr.quantization import costs
from calibzarr.quantization.choices import Clip
from calibzarr.quantization.clipping import clipping_range
from calibzarr.quantization.configuration import UNQUANTIZED
from calibzarr.quantization.histograms import Histograms
from calibzarr.quantization.levels import BITS
from calibzarr.quantization.prediction import Measured
from calibzarr.quantization.quantizers import QUANTIZERS, Quantizer
from calibzarr.statistics.steps import phases_of_calls
from calibzarr.storage import schema

DEFAULT_CLIP: Clip = "lp"
_TEXT_BITS = 8  # of inputs that depend on the text alone
_TEXTS = 2  # a prompt and the empty one


def gather(
    statistics: xr.Dataset,
    observed: observations.Activations,
    measured: Measured | None,
    ranges: tuple[np.ndarray, np.ndarray],
    options: Options,
) -> Evidence:
    """Take stock of what each option costs, and of the error that it makes.

    Args:
        statistics: of ``reading.open_statistics``.
        observed: its layers and steps, of ``observed.activations``.
        measured: sensitivities; None where there are none.
        ranges: of :func:`clipping_ranges`.
        options: of the recommendation.

    Raises:
        OptionError: if an option does not fit what is known.
        StoreError: if a layer had no finite value.
    """
    linear = np.asarray(statistics.role.values == "input")
    unknown = np.isnan(observed.overall.value_min)
    if unknown.any():
        raise StoreError(
            f"{unknown.sum()} layers had no finite value, and cannot be quantized; "
            f"the first is {statistics.layer.values[unknown][0]}"
        )
    phases = phases_of_calls(int(statistics.attrs["num_steps"]))
    values = observed.number.max(axis=1) / statistics.sizes["image"]
    kept = kept_layers(statistics.layer.values, statistics.kind.values, linear, options.keep)
    exception = _exceptions(statistics, values, kept) * linear
    leader = _leaders(statistics.input_group.values, linear & (exception == 0))
    size = np.where(linear & (exception == 0) & (leader == np.arange(len(leader))), values, 0)
    activations, by_phase = _activations(observed, measured, ranges, options, size, phases)
    return Evidence(
        names=statistics.layer.values,
        kinds=statistics.kind.values,
        linear=linear,
        overall=observed.overall,
        activations=activations,
        by_phase=by_phase,
        weights=_weights(statistics, measured, options, linear & ~kept),
        leader=leader,
        exception=exception,
        kept=kept,
        phases=tuple(phases),
        measured=measured,
    )


def kept_layers(
    names: np.ndarray, kinds: np.ndarray, linear: np.ndarray, patterns: Sequence[str]
) -> np.ndarray:
    """Which linear layers patterns name, shape (layer,), bool.

    Raises:
        OptionError: if one names none; says near names.
    """
    kept = np.zeros(len(names), bool)
    for pattern in patterns:
        matches = np.array([fnmatchcase(str(name), pattern) for name in names], bool) & linear
        if not matches.any():
            of_kinds = [f"*{kind}" for kind in dict.fromkeys(kinds[linear].tolist())]
            near = get_close_matches(pattern, [*names[linear].tolist(), *of_kinds], cutoff=0.5)
            raise OptionError(
                Option("keep"),
                f" {pattern!r} matches no linear layer; "
                f"give the name of one, or a pattern such as {', '.join(near or of_kinds)}",
            )
        kept |= matches
    return kept


def _exceptions(statistics: xr.Dataset, values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Bits of inputs that no method chooses, 0 elsewhere: of kept layers, and of the text's."""
    pooled = values <= _TEXTS * statistics.features.values  # one vector for each text
    of_text = np.where(pooled, UNQUANTIZED, _TEXT_BITS)
    return np.where(
        kept, UNQUANTIZED, np.where(statistics.text_only.values.astype(bool), of_text, 0)
    )


def _leaders(input_group: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The first layer whose bits are chosen among those that read the same, shape (layer,)."""
    leader = np.arange(len(input_group))
    rows = np.flatnonzero(chosen)
    _, first, group = np.unique(input_group[rows], return_index=True, return_inverse=True)
    leader[rows] = rows[first[group]]
    return leader


def _activations(
    observed: observations.Activations,
    measured: Measured | None,
    ranges: tuple[np.ndarray, np.ndarray],
    options: Options,
    size: np.ndarray,
    phases: Mapping[str, range],
) -> tuple[Candidates, Candidates | None]:
    quantizers = costs.options("activation", options.activation_quantizer)
    cost = costs.exact_bits(quantizers, np.ones(len(size), int))
    if measured is None:
        relative = _relative_noise(observed.overall, *ranges)
        return _candidates(quantizers, cost, size[:, None], relative[:, None]), None
    columns = [QUANTIZERS.index(quantizer) for quantizer in quantizers]
    static = _candidates(
        quantizers, cost, size[:, None], costs.error_energy(measured)[:, None, columns]
    )
    amplified = costs.amplified_error_energy(measured)
    if amplified is None:
        return static, None
    calls = np.array([len(phase) for phase in phases.values()])
    return static, _candidates(quantizers, cost, size[:, None] * calls, amplified[..., columns])


def _weights(
    statistics: xr.Dataset, measured: Measured | None, options: Options, counted: np.ndarray
) -> Candidates:
    quantizers = costs.options("weight", options.weight_quantizer)
    cost = costs.exact_bits(quantizers, statistics.features.values)
    if measured is None:
        error = _weight_noise(statistics, quantizers)
        if options.weight_quantizer == "mlx":  # what a group's size does is not known
            error, cost = _of_one_group(quantizers, error, cost)
    else:
        columns = [QUANTIZERS.index(quantizer) for quantizer in quantizers]
        error = costs.error_energy(measured)[:, columns]
    number = statistics.weight_histogram.sum("bin").values.astype(float)
    size = np.where(counted & np.isfinite(cost).any(axis=1), number, 0)
    return _candidates(quantizers, cost, size[:, None], error[:, None])


def _of_one_group(
    quantizers: Sequence[Quantizer], error: np.ndarray, cost: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same with groups of 64 alone, or 32 where these do not fit."""
    group = np.array([quantizer.group_size for quantizer in quantizers])
    fits = np.isfinite(cost)
    preferred = np.where((fits & (group == 64)).any(axis=1), 64, 32)[:, None]
    left_out = group != preferred
    return np.where(left_out, np.nan, error), np.where(left_out, np.inf, cost)


def _candidates(
    quantizers: tuple[Quantizer, ...], cost: np.ndarray, size: np.ndarray, error: np.ndarray
) -> Candidates:
    offered = np.isfinite(cost)[:, None]
    known = np.where(np.isnan(error), 0, error)  # nothing is known of what no output depends on
    return Candidates(
        quantizers, cost, size, costs.non_increasing(np.where(offered, known, np.nan))
    )


def _relative_noise(
    rows: Histograms, low: np.ndarray, high: np.ndarray, *, symmetric: bool = False
) -> np.ndarray:
    """Expected error of each number of bits over the mean square, shape (layer, bits)."""
    error = rows.error(low, high, np.array(BITS), symmetric=symmetric)
    power = rows.power[:, None]
    return np.asarray(error / np.where(power > 0, power, 1))


def _weight_noise(statistics: xr.Dataset, quantizers: Sequence[Quantizer]) -> np.ndarray:
    """The same of weights on one scale, for want of better of any scheme; (layer, option)."""
    rows = observations.weights(statistics)
    low, high = clipping_range("mse", rows, BITS, symmetric=True)
    noise = _relative_noise(rows, low, high, symmetric=True)
    return noise[:, [BITS.index(quantizer.bits) for quantizer in quantizers]]


def clipping_ranges(
    statistics: xr.Dataset,
    rows: Histograms,
    measured: Measured | None,
    method: Method,
    options: Options,
) -> tuple[np.ndarray, np.ndarray]:
    """Ranges of activations at each number of bits: those of the sensitivities where there are.

    Args:
        statistics: of ``reading.open_statistics``.
        rows: activations over all steps, shape (layer,).
        measured: sensitivities; None where there are none.
        method: of the options.
        options: of the recommendation.

    Returns:
        Lower and upper ends, each of shape (layer, bits), activation units.

    Raises:
        OptionError: if sensitivities were measured with other ranges than asked for.
    """
    if method.clipping is not None:
        low, high = method.clipping(rows)
        shape = (*low.shape, len(BITS))
        return np.broadcast_to(low[:, None], shape), np.broadcast_to(high[:, None], shape)
    if measured is None:
        return clipping_range(options.clip or DEFAULT_CLIP, rows, BITS)
    clip = statistics.attrs[schema.SENSITIVITY]["clip"]
    if options.clip not in (None, clip):
        raise OptionError(
            Option("clip"),
            f" is {clip} of the sensitivities, got {options.clip}; leave it out, or measure "
            "anew with: ",
            Call("sensitivity", ("STORE",), {"clip": options.clip, "force": True}),
        )
    blocks = np.flatnonzero(~measured.linear)
    low, high = measured.clip_min.astype(np.float64), measured.clip_max.astype(np.float64)
    low[blocks], high[blocks] = clipping_range(clip, rows.at(blocks), BITS)
    return low, high

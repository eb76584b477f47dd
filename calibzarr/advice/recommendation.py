"""Numbers of bits and clipping ranges for every layer, each with the figures that decided it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from calibzarr.advice import labels, observed
from calibzarr.advice.choices import ActivationQuantizer, Clip, WeightQuantizer
from calibzarr.advice.evidence import clipping_ranges, gather
from calibzarr.advice.methods.base import Chosen, Evidence, choose, method_of
from calibzarr.advice.options import Options
from calibzarr.advice.predicted import described, levers
from calibzarr.advice.warnings import warnings_of
from calibzarr.collecting import measured as sensitivities
from calibzarr.datasets import for_users
from calibzarr.errors import Call, Option, OptionError
from calibzarr.quantization.configuration import UNQUANTIZED
from calibzarr.quantization.histograms import Histograms
from calibzarr.quantization.levels import BITS
from calibzarr.quantization.prediction import Measured
from calibzarr.statistics.steps import phases_of_calls
from calibzarr.storage import schema
from calibzarr.storage.manifest import Root, read_root
from calibzarr.storage.reading import open_statistics

_Variables = dict[str, tuple[str | tuple[str, ...], np.ndarray]]


def recommend(
    path: str | Path,
    *,
    method: str = "budget",
    weight_bits: float | None = None,
    activation_bits: float | None = None,
    activation_quantizer: ActivationQuantizer = "tensor",
    weight_quantizer: WeightQuantizer = "row",
    output_db: float | None = None,
    keep: Sequence[str] = (),
    clip: Clip | None = None,
    by_phase: bool | None = None,
) -> xr.Dataset:
    """Recommend bits and clipping ranges for every layer of a store's model.

    Args:
        path: directory of the store.
        method: ``budget`` for the least error at mean numbers of bits, ``target`` for the fewest
            bits with an error, ``uniform`` for the same everywhere, ``range`` for the old rule.
        weight_bits: mean over weights, with scales: 4 of ``budget``, the fewest of ``target``.
        activation_bits: mean over activations: 8 of ``budget``, the fewest of ``target``.
        activation_quantizer: ``tensor`` for one range, ``token`` for one of each token.
        weight_quantizer: one scale by ``tensor`` or ``row``, or ``mlx`` for MLX's groups.
        output_db: of ``target``: SQNR of the guided output, dB.
        keep: patterns, as of file names, of layers that stay unquantized.
        clip: how clipping ranges are chosen; None for that of the sensitivities, or ``lp``.
        by_phase: whether activations are quantized by phase; None where that can be.

    Returns:
        By layer and by phase: bits, ranges, and the reasons; each variable has its ``long_name``
        and ``units``. Attributes in JSON: ``prediction``, ``options``, ``warnings``.

    Raises:
        OptionError: if an option does not fit, or a mean or an error cannot be had.
        StoreError: if the store has no statistics, or sensitivities of other weights.
    """
    options = Options(
        method=method,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        activation_quantizer=activation_quantizer,
        weight_quantizer=weight_quantizer,
        output_db=output_db,
        keep=tuple(keep),
        clip=clip,
        by_phase=by_phase,
    )
    recommended = of_store(read_root(Path(path)), options)
    warnings = [str(warning) for warning in recommended.attrs["warnings"]]
    return for_users(recommended.assign_attrs(warnings=warnings), labels.RECOMMENDED)


def of_store(root: Root, options: Options, *, with_levers: bool = False) -> xr.Dataset:
    """Recommend from what a store has; the attribute ``warnings`` has what a user should know.

    Args:
        root: of the store.
        options: what to reach, and how.
        with_levers: see :func:`of_statistics`.
    """
    statistics, measured = open_statistics(root), measured_of(root)
    recommended = of_statistics(statistics, options, None, measured, with_levers=with_levers)
    return recommended.assign_attrs(warnings=tuple(warnings_of(recommended, root.path)))


def measured_of(root: Root) -> Measured | None:
    """A store's sensitivities; None where it has none."""
    return sensitivities.read(root) if schema.SENSITIVITY in root.attributes else None


def of_statistics(
    statistics: xr.Dataset,
    options: Options,
    activations: observed.Activations | None = None,
    measured: Measured | None = None,
    *,
    with_levers: bool = False,
) -> xr.Dataset:
    """Recommend bits and clipping ranges for every layer.

    Layers that read the same values get equal bits of activations. A block's row has the most
    bits of the quantized linear layers within it, and the range of its output at these; nothing
    is quantized there.

    Args:
        statistics: of ``reading.open_statistics``.
        options: what to reach, and how.
        activations: the statistics' layers and steps, where they are in memory already.
        measured: sensitivities of the same layers; None where there are none.
        with_levers: whether to tell of the next bits in each direction, in the attribute
            ``levers``, of ``predicted.levers``.

    Returns:
        By layer: ``activation_bits`` and ``weight_bits``, 16 where nothing is quantized;
        ``weight_scheme``, "" likewise; ``clip_min`` and ``clip_max``, the range of all calls at
        these bits; ``clip_min_fraction`` and ``clip_max_fraction`` (of the values below them);
        ``value_min``, ``value_max``, ``value_mean``, ``value_std``, ``p01``, ``p99`` and
        ``reason``. By (layer, phase): ``phase_bits``, 0 without an allocation by phase,
        ``phase_clip_min`` and ``phase_clip_max``. By phase: ``first_step``, ``end_step`` (one past
        the last call), ``sigma_min`` and ``sigma_max``, NaN without a bound. With sensitivities, by
        (layer, sensitivity_step): ``activation_share`` and ``weight_share`` of the output's
        predicted error. Attributes: ``options``; ``by_phase``, whether activations are to be
        quantized by phase; ``clip``; ``prediction``, of ``predicted.described``.

    Raises:
        OptionError: if an option does not fit, or a mean or an error cannot be had.
        StoreError: if a layer had no finite value.
    """
    method = method_of(options)
    activations = activations or observed.activations(statistics)
    rows = activations.overall
    ranges = clipping_ranges(statistics, rows, measured, method, options)
    if method.clipping is not None:
        measured = None  # its ranges are others
    evidence = gather(statistics, activations, measured, ranges, options)
    chosen, reasons = choose(evidence, options)
    by_phase = _in_force(evidence, chosen, options)
    applied = chosen if by_phase else Chosen(chosen.activation, None, chosen.weight)
    inside = _inside(statistics, evidence.linear)
    bits = _with_blocks(chosen.activation, evidence.linear, inside)
    if options.activation_quantizer == "token":
        columns = np.ones(len(BITS))
        ranges = rows.value_min[:, None] * columns, rows.value_max[:, None] * columns
    low, high = _at_bits(rows, ranges, bits)
    return xr.Dataset(
        {
            **_by_layer(evidence, chosen, inside, bits, low, high),
            "reason": ("layer", np.array(_reasons(evidence, chosen, reasons, inside), object)),
            **_by_phase(evidence, chosen, inside, ranges),
            **_of_phases(statistics),
            **_shares(evidence, applied),
        },
        {
            **{variable.name: statistics[variable.name] for variable in schema.LAYER_COORDINATES},
            "phase": list(evidence.phases),
            **({} if measured is None else {"sensitivity_step": measured.steps}),
        },
        {
            **statistics.attrs,
            "options": asdict(options),
            "by_phase": by_phase,
            "clip": _clip(statistics, options, measured),
            **_predicted(evidence, options, applied, _numbers(statistics), with_levers=with_levers),
        },
    )


def _predicted(
    evidence: Evidence, options: Options, applied: Chosen, number: np.ndarray, *, with_levers: bool
) -> dict[str, Any]:
    prediction = described(evidence, applied, number)
    if not with_levers:
        return {"prediction": prediction}
    return {
        "prediction": prediction,
        "levers": levers(evidence, options, prediction, number),
    }


def _clip(statistics: xr.Dataset, options: Options, measured: Measured | None) -> str:
    if "clip" not in method_of(options).uses:
        return options.method
    return str(statistics.attrs[schema.SENSITIVITY]["clip"] if measured else options.clip or "lp")


def _in_force(evidence: Evidence, chosen: Chosen, options: Options) -> bool:
    offered = chosen.by_phase is not None
    if options.by_phase and not offered:
        raise OptionError(
            Option("by_phase"),
            " needs sensitivities with a measured call in each of the phases "
            f"{', '.join(evidence.phases)}; measure them with: ",
            Call("sensitivity", ("STORE",), {"force": True}),
        )
    return offered and options.by_phase is not False


def _numbers(statistics: xr.Dataset) -> np.ndarray:
    return np.asarray(statistics.weight_histogram.sum("bin").values.astype(float))


def _inside(statistics: xr.Dataset, linear: np.ndarray) -> np.ndarray:
    """Which linear layers a block's row speaks for, shape (layer, layer), bool."""
    block, stream, name = (
        statistics[coordinate].values for coordinate in ("block", "stream", "layer")
    )
    of_block = (block[:, None] == block) & ~linear[:, None] & linear
    return np.asarray(of_block & ((name == block)[:, None] | (stream[:, None] == stream)))


def _with_blocks(bits: np.ndarray, linear: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """With the most bits of the quantized layers within each block; ``UNQUANTIZED`` without any."""
    within = np.where(inside & (bits < UNQUANTIZED), bits, 0).max(axis=1)
    return np.where(linear, bits, np.where(within > 0, within, UNQUANTIZED))


def _at_bits(
    rows: Histograms, ranges: tuple[np.ndarray, ...], bits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of ranges at bits of any shape (layer, ...); the extremes where nothing is quantized."""
    layer = np.arange(len(bits)).reshape(-1, *[1] * (bits.ndim - 1))
    column = np.clip(np.searchsorted(BITS, bits), 0, len(BITS) - 1)
    low, high = (
        np.where(bits == UNQUANTIZED, extreme[layer], ends[layer, column])
        for extreme, ends in zip((rows.value_min, rows.value_max), ranges, strict=True)
    )
    return low, high


def _by_layer(
    evidence: Evidence,
    chosen: Chosen,
    inside: np.ndarray,
    bits: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> _Variables:
    rows, quantizers = evidence.overall, evidence.weights.quantizers
    of_weights = np.array([*(quantizer.bits for quantizer in quantizers), UNQUANTIZED])
    schemes = np.array([*(quantizer.scheme for quantizer in quantizers), ""], dtype=object)
    below = np.where(low <= rows.value_min, 0, rows.fraction_below(low))
    values = {
        "activation_bits": bits,
        "weight_bits": _with_blocks(of_weights[chosen.weight], evidence.linear, inside),
        "weight_scheme": schemes[chosen.weight],
        "clip_min": low,
        "clip_max": high,
        "clip_min_fraction": below,
        "clip_max_fraction": np.where(high >= rows.value_max, 1, rows.fraction_below(high)),
        "value_min": rows.value_min,
        "value_max": rows.value_max,
        "value_mean": rows.mean,
        "value_std": rows.std,
        "p01": rows.tails[0],
        "p99": rows.tails[1],
    }
    return {name: ("layer", array) for name, array in values.items()}


def _by_phase(
    evidence: Evidence, chosen: Chosen, inside: np.ndarray, ranges: tuple[np.ndarray, ...]
) -> _Variables:
    both = ("layer", "phase")
    shape = (len(evidence.names), len(evidence.phases))
    if chosen.by_phase is None:
        unknown = np.full(shape, np.nan)
        return {
            "phase_bits": (both, np.zeros(shape, int)),
            "phase_clip_min": (both, unknown),
            "phase_clip_max": (both, unknown.copy()),
        }
    columns = [_with_blocks(column, evidence.linear, inside) for column in chosen.by_phase.T]
    bits = np.stack(columns, axis=1)
    low, high = _at_bits(evidence.overall, ranges, bits)
    return {
        "phase_bits": (both, bits),
        "phase_clip_min": (both, low),
        "phase_clip_max": (both, high),
    }


def _of_phases(statistics: xr.Dataset) -> _Variables:
    """Calls of each phase, and the noise levels midway to those of its neighbours."""
    phases = phases_of_calls(int(statistics.attrs["num_steps"])).values()
    first, end = (np.array([getattr(p, name) for p in phases]) for name in ("start", "stop"))
    sigma = statistics.state_sigma.values.astype(np.float64)
    midway = (sigma[end[:-1] - 1] + sigma[end[:-1]]) / 2
    return {
        "first_step": ("phase", first),
        "end_step": ("phase", end),
        "sigma_min": ("phase", np.append(midway, np.nan)),
        "sigma_max": ("phase", np.insert(midway, 0, np.nan)),
    }


def _shares(evidence: Evidence, applied: Chosen) -> _Variables:
    prediction = evidence.predicted(applied)
    if prediction is None:
        return {}
    return {
        f"{kind}_share": (("layer", "sensitivity_step"), share)
        for kind, share in zip(("activation", "weight"), prediction.shares, strict=True)
    }


def _reasons(
    evidence: Evidence, chosen: Chosen, reasons: Sequence[str], inside: np.ndarray
) -> list[str]:
    """Those of the method, and those of what no method chooses."""
    texts = []
    for row, reason in enumerate(reasons):
        if not evidence.linear[row]:
            number = int((inside[row] & (chosen.activation < UNQUANTIZED)).sum())
            text = f"the most bits of the {number} quantized linear layers in it; itself it is not"
        elif evidence.kept[row]:
            text = "unquantized by request"
        else:
            notes = [reason]
            if evidence.exception[row]:
                bits = evidence.exception[row]
                level = "unquantized" if bits == UNQUANTIZED else f"{bits} bits"
                notes.append(f"its inputs depend on the text alone: {level}, outside the mean")
            if chosen.weight[row] < 0:
                notes.append("no quantizer fits the width of its weight: unquantized")
            text = "; ".join(note for note in notes if note)
        texts.append(text)
    return texts

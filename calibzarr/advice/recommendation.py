"""Numbers of bits and clipping ranges for every layer, each with the figures that decided it."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import xarray as xr

from calibzarr.advice import observed
from calibzarr.advice.choices import ACTIVATION_TARGET, WEIGHT_TARGET, Clip
from calibzarr.advice.evidence import Clippings, gather
from calibzarr.advice.methods.base import (
    CHOICES,
    Chosen,
    Evidence,
    Method,
    choose,
    chosen_of,
    decibels,
    method_of,
)
from calibzarr.advice.options import Options
from calibzarr.quantization.histograms import Histograms
from calibzarr.storage import schema
from calibzarr.storage.reading import open_statistics


def recommend(
    path: str | Path,
    *,
    method: str = "sqnr",
    activation_target: float = ACTIVATION_TARGET,
    weight_target: float = WEIGHT_TARGET,
    mean_bits: float | None = None,
    clip: Clip = "mse",
) -> xr.Dataset:
    """Recommend a quantization of a store's model; see :func:`of_statistics`.

    Args:
        path: directory of the store.
        method: ``sqnr`` for the fewest bits that meet the targets, ``budget`` for the least
            error at a mean number of bits, ``range`` for the old rule.
        activation_target: of ``sqnr``: for the activations of each layer, in dB.
        weight_target: of ``sqnr``: for the weights of each layer, in dB.
        mean_bits: of ``budget``: over activations, and over weights.
        clip: how clipping ranges are chosen: for the least squared error, or that to the power
            of 2.4, or at the observed extremes.

    Raises:
        OptionError: if an option does not fit, or no layer reaches a target.
        ValueError: if the store has no statistics.
    """
    options = Options(
        method=method,
        activation_target=activation_target,
        weight_target=weight_target,
        mean_bits=mean_bits,
        clip=clip,
    )
    return of_statistics(open_statistics(path), options)


def of_statistics(
    statistics: xr.Dataset, options: Options, activations: observed.Activations | None = None
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
        activations: the statistics' layers and steps, where they are in memory already.

    Returns:
        By layer: ``activation_bits``, ``weight_bits``, ``clip_min``, ``clip_max``,
        ``clip_min_fraction`` and ``clip_max_fraction`` (of the values below them), ``sqnr_db``
        over all steps, ``worst_sqnr_db`` of the worst phase, ``weight_sqnr_db``,
        ``value_min``, ``value_max``, ``value_mean``, ``value_std``, ``p01``, ``p99`` and
        ``reason``. By (layer, phase): ``phase_bits``, ``phase_clip_min``, ``phase_clip_max``,
        ``phase_sqnr_db``; 0 and NaN for a phase that was not collected. By phase:
        ``first_step``, ``end_step`` (one past the last) and ``num_collected`` steps. ``step``
        and ``sigma`` are those collected; the options are an attribute.

    Raises:
        OptionError: if an option does not fit, or no layer reaches a target.
        ValueError: if a layer had no finite value in some phase.
    """
    method = method_of(options)
    activations = activations or observed.activations(statistics)
    phases = observed.phases_of(statistics)
    evidence, clippings = gather(statistics, activations, phases, method, options)
    chosen, reasons = choose(evidence, options)
    in_phase = [
        steps.stop - steps.start for steps in observed.positions(statistics, phases).values()
    ]
    return xr.Dataset(
        {
            **_by_layer(evidence, clippings, method, chosen),
            "reason": ("layer", np.array(reasons, dtype=object)),
            **_by_phase(clippings, chosen, np.array(in_phase)),
            **_of_phases(phases),
        },
        {
            **{variable.name: statistics[variable.name] for variable in schema.LAYER_COORDINATES},
            "phase": list(phases),
            "step": statistics.step.values,
            "sigma": ("step", statistics.sigma.values),
        },
        {**statistics.attrs, "options": asdict(options)},
    )


_Variables = dict[str, tuple[str | tuple[str, ...], np.ndarray]]


def _by_layer(
    evidence: Evidence, clippings: Clippings, method: Method, chosen: Chosen
) -> _Variables:
    rows, error = evidence.overall, evidence.error
    clipping = clippings.overall.at(chosen.activation)
    fractions = _fractions(rows, clipping.clip_min, clipping.clip_max)
    if method.fractions is not None:
        fractions = method.fractions(rows)
    values = {
        "activation_bits": np.take(CHOICES, chosen.activation),
        "weight_bits": np.take(CHOICES, chosen.weight),
        "clip_min": clipping.clip_min,
        "clip_max": clipping.clip_max,
        "clip_min_fraction": fractions[0],
        "clip_max_fraction": fractions[1],
        "sqnr_db": decibels(clipping.error),
        "worst_sqnr_db": decibels(chosen_of(error.worst, chosen.activation)),
        "weight_sqnr_db": decibels(chosen_of(error.weights, chosen.weight)),
        "value_min": rows.value_min,
        "value_max": rows.value_max,
        "value_mean": rows.mean,
        "value_std": rows.std,
        "p01": rows.tails[0],
        "p99": rows.tails[1],
    }
    return {name: ("layer", array) for name, array in values.items()}


def _fractions(
    rows: Histograms, clip_min: np.ndarray, clip_max: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the values below the ends of a clipping range, each of shape (layer,)."""
    low, high = rows.fraction_below(clip_min), rows.fraction_below(clip_max)
    return np.where(clip_min <= rows.value_min, 0, low), np.where(
        clip_max >= rows.value_max, 1, high
    )


def _by_phase(clippings: Clippings, chosen: Chosen, in_phase: np.ndarray) -> _Variables:
    clipping = clippings.by_phase.at(chosen.by_phase)
    both = ("layer", "phase")
    return {
        "phase_bits": (both, np.where(in_phase > 0, np.take(CHOICES, chosen.by_phase), 0)),
        "phase_clip_min": (both, clipping.clip_min),
        "phase_clip_max": (both, clipping.clip_max),
        "phase_sqnr_db": (both, decibels(clipping.error)),
        "num_collected": ("phase", in_phase),
    }


def _of_phases(phases: Mapping[str, range]) -> _Variables:
    return {
        "first_step": ("phase", np.array([steps.start for steps in phases.values()])),
        "end_step": ("phase", np.array([steps.stop for steps in phases.values()])),
    }

"""What is known of every layer before its bits are chosen."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from calibzarr.advice import observed as observations
from calibzarr.advice.clipping_ranges import clipped, clipping_ranges
from calibzarr.advice.methods.base import CHOICES, Evidence, Layers, Method, QuantizationError
from calibzarr.advice.options import Options
from calibzarr.errors import StoreError
from calibzarr.quantization.clipping import Clipping, clipping_range


@dataclass(frozen=True)
class Clippings:
    """Clipping ranges with relative errors at each of ``CHOICES``.

    Attributes:
        overall: one range for all steps, shape (layer, choice).
        by_phase: a range for each phase, shape (layer, phase, choice).
    """

    overall: Clipping
    by_phase: Clipping


def gather(
    statistics: xr.Dataset,
    observed: observations.Activations,
    phases: Mapping[str, range],
    method: Method,
    options: Options,
) -> tuple[Evidence, Clippings]:
    """Clip every layer at every number of bits, and take stock of the errors.

    Args:
        statistics: of ``reading.open_statistics``.
        observed: its layers and steps, of ``observed.activations``.
        phases: of ``observed.phases_of``.
        method: of the options.
        options: of the recommendation.

    Raises:
        StoreError: if a layer has no finite value in a phase that was collected.
    """
    overall = observed.overall
    positions = observations.positions(statistics, phases).values()
    by_phase = observed.over_phases(phases)
    collected = np.array([steps.stop > steps.start for steps in positions])
    unknown = (np.isnan(by_phase.value_min) & collected).any(axis=1)
    if unknown.any():
        raise StoreError(
            f"{unknown.sum()} layers had no finite value in some phase, and cannot be quantized; "
            f"the first is {statistics.layer.values[unknown][0]}"
        )
    one_range, ranges = (
        clipped(rows, *clipping_ranges(rows, method, options)) for rows in (overall, by_phase)
    )
    static = clipped(by_phase, one_range.clip_min[:, None], one_range.clip_max[:, None])
    error = QuantizationError(
        overall=one_range.error,
        static=static.error,
        by_phase=ranges.error,
        weights=_weight_error(statistics, options),
    )
    evidence = Evidence(
        layers=_layers(statistics, observed.values_of_calls(by_phase.number, phases)),
        error=error,
        overall=overall,
        by_phase=by_phase,
        names=statistics.layer.values,
        kinds=statistics.kind.values,
        phases=tuple(phases),
    )
    return evidence, Clippings(one_range, ranges)


def _weight_error(statistics: xr.Dataset, options: Options) -> np.ndarray:
    """Relative error of the weights, shape (layer, choice)."""
    rows = observations.weights(statistics)
    ends = clipping_range(options.clip, rows, CHOICES, symmetric=True)
    return clipped(rows, *ends, symmetric=True).error


def _layers(statistics: xr.Dataset, values: np.ndarray) -> Layers:
    block, stream, name = (
        statistics[coordinate].values for coordinate in ("block", "stream", "layer")
    )
    linear = (statistics.role == "input").values
    of_block = (block[:, None] == block) & ~linear[:, None] & linear
    weights = statistics.weight_histogram.sum("bin").values
    return Layers(
        linear=linear,
        tied=np.unique(statistics.tied_group.values, return_inverse=True)[1],
        inside=of_block & ((name == block)[:, None] | (stream[:, None] == stream)),
        operations=values.sum(axis=1) / statistics.features.values * weights,
        values=values,
        weights=weights,
    )

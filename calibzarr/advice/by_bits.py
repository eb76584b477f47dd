"""What numbers of bits do to the guided output: of the whole model, and layer by layer."""

from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from calibzarr.advice import observed
from calibzarr.advice.evidence import clipping_ranges, gather
from calibzarr.advice.methods.base import Candidates, Chosen, Evidence, method_of
from calibzarr.advice.options import Options
from calibzarr.advice.predicted import mean_bits
from calibzarr.quantization import costs
from calibzarr.quantization.configuration import UNQUANTIZED
from calibzarr.quantization.levels import BITS
from calibzarr.quantization.prediction import Measured
from calibzarr.quantization.quantizers import QUANTIZERS
from calibzarr.quantization.sensitivity import counted_at_nearest

TOLD = (4, 6, 8)
"""Bits that are told of; all are drawn."""

QUANTIZED = ("weights", "activations", "both")
ALLOCATIONS = ("uniform", "budget")


def evidence_of(
    statistics: xr.Dataset, activations: observed.Activations, measured: Measured
) -> Evidence:
    """What the budget chooses from with its default quantizers.

    Args:
        statistics: of ``reading.open_statistics``.
        activations: its layers and steps.
        measured: sensitivities of the same layers.
    """
    options = Options()
    rows = activations.overall
    ranges = clipping_ranges(statistics, rows, measured, method_of(options), options)
    return gather(statistics, activations, measured, ranges, options)


def of_model(evidence: Evidence) -> xr.Dataset:
    """Uniform bits, and a budget of the same cost.

    Args:
        evidence: with sensitivities.

    Returns:
        By (quantized, bits, allocation): ``output_sqnr_db``, predicted SQNR of the guided output,
        and ``picture_psnr_db``; by bits: ``weight_bits`` and ``activation_bits``, the mean cost;
        by (bits, layer, phase), where activations are allocated by phase: ``phase_bits`` of the
        budget.
    """
    names = ("output_sqnr_db", "picture_psnr_db")
    found = np.empty((len(names), len(QUANTIZED), len(BITS), len(ALLOCATIONS)))
    means, by_phase = np.empty((len(BITS), 2)), []
    ones, method = np.ones(len(evidence.names), int), method_of(Options())
    for row, bits in enumerate(BITS):
        uniform = evidence.with_exceptions(Chosen.of_bits(evidence, bits * ones, bits * ones))
        means[row] = mean_bits(evidence, uniform)
        options = Options(weight_bits=means[row, 0], activation_bits=means[row, 1])
        budget = evidence.with_exceptions(method.choose(evidence, options))
        if budget.by_phase is not None:
            by_phase.append(budget.by_phase)
        for column, chosen in enumerate((uniform, budget)):
            for what, only in enumerate((_weights_alone, _activations_alone, _both)):
                predicted = evidence.predicted(only(chosen))
                assert predicted is not None
                found[:, what, row, column] = (
                    predicted.output_sqnr_db,
                    predicted.picture_psnr_db,
                )
    dims = ("quantized", "bits", "allocation")
    return xr.Dataset(
        {
            **{name: (dims, values) for name, values in zip(names, found, strict=True)},
            "weight_bits": ("bits", means[:, 0]),
            "activation_bits": ("bits", means[:, 1]),
            **(
                {}
                if not by_phase
                else {"phase_bits": (("bits", "layer", "phase"), np.stack(by_phase))}
            ),
        },
        {"quantized": list(QUANTIZED), "bits": list(BITS), "allocation": list(ALLOCATIONS)},
    )


def _weights_alone(chosen: Chosen) -> Chosen:
    return Chosen(np.full_like(chosen.activation, UNQUANTIZED), None, chosen.weight)


def _activations_alone(chosen: Chosen) -> Chosen:
    return replace(chosen, weight=np.full_like(chosen.weight, -1))


def _both(chosen: Chosen) -> Chosen:
    return chosen


def of_layers(evidence: Evidence, recommended: xr.Dataset) -> xr.Dataset:
    """What quantizing each layer alone does, and what a bit more or less of it would do.

    Args:
        evidence: with sensitivities.
        recommended: of ``recommendation.of_statistics``, by the same.

    Returns:
        By (layer, bits): ``activation_output_db`` and ``weight_output_db``, SQNR of the guided
        output over a sampling if nothing else were quantized; those of shared inputs are of all
        layers that read them. By layer, of ``activation`` and of ``weight``: ``_bit_cost``, by how
        much one bit more there raises the mean; ``_bit_gain``, the share of the error of all
        activations, or weights, that it would remove; ``_bit_loss``, what one bit less would add
        to it. NaN where nothing is chosen, or there is no such number of bits.
    """
    measured = evidence.measured
    assert measured is not None
    widths = counted_at_nearest(measured.widths, measured.steps).sum(axis=0)
    power = float(widths @ measured.step_power)
    with np.errstate(divide="ignore", invalid="ignore"):
        alone = 10 * np.log10(power / costs.error_energy(measured))
    by_phase = recommended.attrs["by_phase"] and evidence.by_phase is not None
    inputs = evidence.by_phase if by_phase else evidence.activations
    assert inputs is not None
    bits = recommended.phase_bits if by_phase else recommended.activation_bits
    values: dict[str, Any] = {}
    for kind, candidates, chosen in (
        ("activation", inputs, bits.values.reshape(len(alone), -1)),
        ("weight", evidence.weights, recommended.weight_bits.values[:, None]),
    ):
        columns = [QUANTIZERS.index(quantizer) for quantizer in candidates.quantizers]
        values[f"{kind}_output_db"] = (("layer", "bits"), alone[:, columns])
        shares = _beside(candidates, chosen)
        values |= {f"{kind}_bit_{name}": ("layer", array) for name, array in shares.items()}
    return xr.Dataset(values, {"layer": recommended.layer.values, "bits": list(BITS)})


def _beside(candidates: Candidates, bits: np.ndarray) -> dict[str, np.ndarray]:
    """Cost, gain and loss of a bit; ``bits`` of shape (layer, phase).

    Of layers that share their inputs, the first bears all.
    """
    counted = (candidates.size > 0) & np.isin(bits, BITS)
    option = np.searchsorted(BITS, np.where(counted, bits, BITS[0]))

    def error(shift: int) -> np.ndarray:
        at = option + shift
        made = np.take_along_axis(
            candidates.error, np.clip(at, 0, len(BITS) - 1)[..., None], axis=-1
        )[..., 0]
        return np.where(counted & (at >= 0) & (at < len(BITS)), made, np.nan)

    def change(shift: int) -> np.ndarray:
        difference = np.abs(error(shift) - error(0))
        known = ~np.isnan(difference)
        return np.where(known.any(axis=1), np.where(known, difference, 0).sum(axis=1), np.nan)

    total = np.nansum(error(0))
    size = np.where(counted, candidates.size, 0).sum(axis=1)
    return {
        "cost": np.where(size > 0, size / max(size.sum(), 1), np.nan),
        "gain": change(1) / total if total > 0 else change(1),
        "loss": change(-1) / total if total > 0 else change(-1),
    }


def describe(of_bits: xr.Dataset) -> dict[str, Any]:
    """What :func:`of_model` gives, in JSON types, of the bits that are told of.

    Returns:
        By what is quantized and bits: ``weight_bits`` and ``activation_bits``, the cost; and of
        ``uniform`` and ``budget``, ``output_sqnr_db`` and ``picture_psnr_db``; None if unknown.
    """
    return {
        what: {
            str(bits): {
                "weight_bits": _figure(of_bits.weight_bits.sel(bits=bits)),
                "activation_bits": _figure(of_bits.activation_bits.sel(bits=bits)),
                **{
                    allocation: {
                        name: _figure(
                            of_bits[name].sel(quantized=what, bits=bits, allocation=allocation)
                        )
                        for name in ("output_sqnr_db", "picture_psnr_db")
                    }
                    for allocation in ALLOCATIONS
                },
            }
            for bits in TOLD
        }
        for what in QUANTIZED
    }


def _figure(value: xr.DataArray) -> float | None:
    return round(float(value), 2) if np.isfinite(value) else None

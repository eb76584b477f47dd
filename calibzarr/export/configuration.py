"""The quantization configuration in JSON types, from a recommendation."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from calibzarr.advice.choices import GRANULARITIES, Granularity
from calibzarr.advice.methods.base import method_of
from calibzarr.advice.options import Options, one_of
from calibzarr.quantization.configuration import SCHEMA_VERSION, UNQUANTIZED, static
from calibzarr.quantization.quantizers import Quantizer
from calibzarr.storage.manifest import made_by
from calibzarr.storage.schema import ACTIVATIONS, SENSITIVITY

_DIGITS = 9  # of figures: more than a histogram knows, fewer than differ between machines
_ROLES = {"block": ("output",), "linear": ("input",), "all": ("input", "output")}
_BITS = ("weight_bits", "activation_bits")


def configuration(recommended: xr.Dataset, granularity: Granularity = "all") -> dict[str, Any]:
    """The configuration in JSON types, with the date of now.

    Args:
        recommended: of ``recommendation.of_statistics``.
        granularity: ``block`` for the rows of the old files, ``linear`` for those of linear
            layers, or ``all``.

    Raises:
        OptionError: if there is no such granularity.
    """
    one_of("granularity", granularity, GRANULARITIES)
    options = Options(**recommended.attrs["options"])
    offered = _by_phase_is_offered(recommended)
    chosen = recommended.isel(layer=np.isin(recommended.role.values, _ROLES[granularity]))
    columns = {
        str(name): array.values.tolist()
        for name, array in chosen.variables.items()
        if array.dims[0] == "layer"
    }
    phases = recommended.phase.values.tolist() if offered else []
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    activations, weights = options.activation_quantizer, options.weight_quantizer
    group = "-64" if weights == "mlx" else ""  # whichever: the formula is of all
    return {
        "schema_version": SCHEMA_VERSION,
        # What is not listed gets the most that any listed layer needs.
        "default_config": {
            kind: max((bits for bits in columns[kind] if bits != UNQUANTIZED), default=8)
            for kind in _BITS
        },
        "activation": {
            "quantizer": activations,
            "by_phase": offered and bool(recommended.attrs["by_phase"]),
            "formula": Quantizer("activation", activations, 8).formula,
        },
        "weight": {
            "quantizer": weights,
            "formula": Quantizer("weight", f"{weights}{group}", 8).formula,
        },
        "phases": {
            name: _phase(recommended.isel(phase=index))
            for index, name in enumerate(recommended.phase.values.tolist())
        },
        "layer_configs": {row["layer"]: _layer(row, phases, activations) for row in rows},
        "prediction": {**recommended.attrs["prediction"], "layers": _shares(recommended)},
        "provenance": _provenance(recommended.attrs, options),
    }


def _by_phase_is_offered(recommended: xr.Dataset) -> bool:
    """Whether every linear layer has bits in every phase."""
    return bool((recommended.phase_bits.values[recommended.role.values == "input"] > 0).all())


def _layer(layer: Mapping[str, Any], phases: list[str], scheme: str) -> dict[str, Any]:
    linear = layer["role"] == "input"
    # A layer without a range of its own: its tokens have theirs, or nothing is clipped.
    whole = layer["activation_bits"] == UNQUANTIZED or (linear and scheme == "token")
    ends = [layer[f"{'value' if whole else 'clip'}_{end}"] for end in ("min", "max")]
    by_phase = zip(
        layer["phase_bits"], layer["phase_clip_min"], layer["phase_clip_max"], strict=True
    )
    row = {
        **{kind: layer[kind] for kind in _BITS},
        "use_symmetric": False,  # which older readers ask each layer for
        "clip_percentile": _percentiles(layer, ends),
        "calibration_stats": {
            **{name: _figure(layer[f"value_{name}"]) for name in ("min", "max", "mean", "std")},
            **{name: _figure(layer[name]) for name in ("p01", "p99")},
        },
        "clip_min": _figure(ends[0]),
        "clip_max": _figure(ends[1]),
        **{name: layer[name] for name in ("module", "role", "stream", "kind")},
        "activation": None,
        "weight": None,
        "reason": layer["reason"],
    }
    if linear:
        static_range = (layer["clip_min"], layer["clip_max"])
        row["activation"] = _activation(layer["activation_bits"], *static_range, scheme)
        row["weight"] = _weight(layer["weight_scheme"], layer["weight_bits"])
        if phases:
            said = [_activation(*own, scheme) for own in by_phase]
            row["phases"] = dict(zip(phases, said, strict=True))
    return row


def _percentiles(layer: Mapping[str, Any], ends: list[float]) -> list[float]:
    """Where a range ends among a layer's values; exact where older readers look it up."""
    if ends == [layer["value_min"], layer["value_max"]]:
        return [0.0, 100.0]
    if ends == [layer["p01"], layer["p99"]]:
        return [1.0, 99.0]
    told = [_figure(100 * layer[f"clip_{end}_fraction"]) for end in ("min", "max")]
    return [whole if end is None else end for end, whole in zip(told, (0.0, 100.0), strict=True)]


def _activation(bits: int, clip_min: float, clip_max: float, scheme: str) -> dict[str, Any] | None:
    """Levels of activations; the scale exactly, so that it is the same float32 when it is read."""
    if bits == UNQUANTIZED:
        return None
    lowest, highest = Quantizer("activation", scheme, bits).levels
    said = {"bits": bits, "lowest": lowest, "highest": highest}
    if scheme == "token":
        return said
    affine = static(clip_min, clip_max, bits)
    return {**said, "scale": affine.scale, "zero_point": affine.zero_point}


def _weight(scheme: str, bits: int) -> dict[str, Any] | None:
    if bits == UNQUANTIZED:
        return None
    quantizer = Quantizer("weight", scheme, bits)
    lowest, highest = quantizer.levels
    levels = {"lowest": lowest, "highest": highest}
    return {"scheme": scheme, "bits": bits, "group_size": quantizer.group_size, **levels}


def _phase(phase: xr.Dataset) -> dict[str, Any]:
    bounds = {name: float(phase[name]) for name in ("sigma_min", "sigma_max")}
    return {
        "first_step": int(phase.first_step),
        "last_step": int(phase.end_step) - 1,
        **{name: None if math.isnan(bound) else bound for name, bound in bounds.items()},
    }


def _shares(recommended: xr.Dataset) -> dict[str, dict[str, list[float | None]]]:
    """Of the output's predicted error, by linear layer and by kind of value, of each step."""
    if "activation_share" not in recommended:
        return {}
    linear = recommended.isel(layer=recommended.role.values == "input")
    kinds = {kind: linear[f"{kind}_share"].values.tolist() for kind in ("activation", "weight")}
    return {
        name: {kind: [_figure(value) for value in shares[row]] for kind, shares in kinds.items()}
        for row, name in enumerate(linear.layer.values.tolist())
    }


def _figure(value: Any) -> float | None:
    """A number rounded for reading; None where it is unknown or infinite."""
    value = float(value)
    return float(f"{value:.{_DIGITS}g}") + 0.0 if math.isfinite(value) else None  # no -0.0


def _provenance(manifest: Mapping[str, Any], options: Options) -> dict[str, Any]:
    activations, stated = manifest[ACTIVATIONS], method_of(options).provenance(options)
    made = made_by(("calibzarr",), "date")
    return {
        "method": options.method,
        **stated,
        "clip": stated.get("clip", manifest["clip"]),
        "keep": list(options.keep),
        "model": manifest["model"],
        "model_fingerprint": manifest["model_fingerprint"],
        "prompts_sha256": manifest["prompts_sha256"],
        "statistics": activations["stamp"],
        "sensitivities": manifest.get(SENSITIVITY, {}).get("stamp"),
        "num_images": activations["num_images"],
        "steps": activations["steps"],
        "num_steps": manifest["num_steps"],
        "libraries": {**activations["libraries"], **made["libraries"]},
        "date": made["date"],
    }

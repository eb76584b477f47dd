"""The quantization configuration in JSON types, and its schema."""

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
import xarray as xr

from calibzarr.advice.choices import GRANULARITIES, Granularity, methods
from calibzarr.advice.methods.base import method_of
from calibzarr.advice.options import Options, one_of
from calibzarr.storage.manifest import made_by
from calibzarr.storage.schema import ACTIVATIONS

_DIGITS = 9  # of figures: more than a histogram knows, fewer than differ between machines
_ROLES = {"block": ("output",), "linear": ("input",), "all": ("input", "output")}


def schema() -> dict[str, Any]:
    """The JSON Schema of the configuration that the package ships, with the methods there are."""
    source = resources.files("calibzarr.export") / "quantization_config.schema.json"
    content = dict(json.loads(source.read_text(encoding="utf-8")))
    content["$defs"]["provenance"]["properties"]["method"]["enum"] = list(methods())
    return content


def configuration(
    recommended: xr.Dataset,
    granularity: Granularity = "all",
) -> dict[str, Any]:
    """The configuration in JSON types, with the date of now.

    Args:
        recommended: of ``recommendation.of_statistics``.
        granularity: ``block`` for the rows of the old files, ``linear`` for those of linear
            layers, or ``all``.

    Raises:
        OptionError: if there is no such granularity.
    """
    one_of("granularity", granularity, GRANULARITIES)
    chosen = recommended.isel(layer=np.isin(recommended.role.values, _ROLES[granularity]))
    columns = {
        str(name): array.values.tolist()
        for name, array in chosen.variables.items()
        if array.dims[0] == "layer"
    }
    phases = recommended.phase.values.tolist()
    return {
        "schema_version": 1,
        # What is not listed gets the most that any listed layer needs.
        "default_config": {
            kind: max(columns[kind], default=8) for kind in ("weight_bits", "activation_bits")
        },
        "layer_configs": {
            name: _layer({key: column[row] for key, column in columns.items()}, phases)
            for row, name in enumerate(columns["layer"])
        },
        "phases": {
            name: _phase(recommended, index)
            for index, name in enumerate(phases)
            if recommended.first_step[index] < recommended.end_step[index]  # few steps: not all
        },
        "quantizers": {
            "activations": "affine, one range for a tensor, integer zero point",
            "weights": "symmetric, one range for a tensor",
        },
        "provenance": _provenance(recommended),
    }


def _layer(layer: Mapping[str, Any], phases: Sequence[str]) -> dict[str, Any]:
    percentiles = (100 * layer[f"clip_{end}_fraction"] for end in ("min", "max"))
    linear = layer["role"] == "input"
    return {
        "weight_bits": layer["weight_bits"],
        "activation_bits": layer["activation_bits"],
        "clip_percentile": [_figure(value) for value in percentiles],
        "calibration_stats": {
            **{name: _figure(layer[f"value_{name}"]) for name in ("min", "max", "mean", "std")},
            **{name: _figure(layer[name]) for name in ("p01", "p99")},
        },
        "clip_min": _figure(layer["clip_min"]),
        "clip_max": _figure(layer["clip_max"]),
        "sqnr_db": _figure(layer["sqnr_db"]),
        "worst_sqnr_db": _figure(layer["worst_sqnr_db"]),
        "weight_sqnr_db": _figure(layer["weight_sqnr_db"]) if linear else None,
        "module": layer["module"],
        "role": layer["role"],
        "stream": layer["stream"],
        "kind": layer["kind"],
        "phases": {
            name: {
                "activation_bits": layer["phase_bits"][index],
                "clip_min": _figure(layer["phase_clip_min"][index]),
                "clip_max": _figure(layer["phase_clip_max"][index]),
                "sqnr_db": _figure(layer["phase_sqnr_db"][index]),
            }
            for index, name in enumerate(phases)
            if layer["phase_bits"][index]
        },
        "reason": layer["reason"],
    }


def _phase(recommended: xr.Dataset, index: int) -> dict[str, Any]:
    phase = recommended.isel(phase=index)
    first, end = int(phase.first_step), int(phase.end_step)
    inside = (recommended.step.values >= first) & (recommended.step.values < end)
    result: dict[str, Any] = {"first_step": first, "last_step": end - 1}
    if inside.any():
        sigma = recommended.sigma.values[inside]
        result |= {
            "sigma_max": _figure(sigma.max()),
            "sigma_min": _figure(sigma.min()),
        }
    return result


def _figure(value: Any) -> float | None:
    """A number rounded for reading; None where it is unknown or infinite."""
    value = float(value)
    return float(f"{value:.{_DIGITS}g}") + 0.0 if math.isfinite(value) else None  # no -0.0


def _provenance(recommended: xr.Dataset) -> dict[str, Any]:
    manifest, options = recommended.attrs, Options(**recommended.attrs["options"])
    activations, stated = manifest[ACTIVATIONS], method_of(options).provenance(options)
    made = made_by(("calibzarr",), "date")
    return {
        "method": options.method,
        **stated,
        "clip": stated.get("clip", options.clip),
        "model": manifest["model"],
        "model_fingerprint": manifest["model_fingerprint"],
        "prompts_sha256": manifest["prompts_sha256"],
        "statistics": activations["stamp"],
        "num_images": activations["num_images"],
        "steps": activations["steps"],
        "num_steps": manifest["num_steps"],
        "libraries": {**activations["libraries"], **made["libraries"]},
        "date": made["date"],
    }


def validate(content: Mapping[str, Any]) -> None:
    """Check a configuration against the schema, before anything is written.

    Raises:
        ValueError: if it does not fit.
    """
    from jsonschema import Draft202012Validator

    error = next(Draft202012Validator(schema()).iter_errors(content), None)
    if error is not None:
        raise ValueError(f"{error.json_path} of the configuration does not fit: {error.message}")

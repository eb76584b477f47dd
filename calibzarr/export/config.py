"""The quantization configuration: a recommendation as JSON that old readers accept."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from calibzarr.advice import features as recommended_features
from calibzarr.advice import recommendation
from calibzarr.advice.methods.base import CHOICES
from calibzarr.advice.recommendation import Options
from calibzarr.errors import OptionError
from calibzarr.export.mlx import class_predicate
from calibzarr.quantization import features as feature_advice
from calibzarr.storage import durable, objects
from calibzarr.storage.reading import open_statistics

GRANULARITIES = ("block", "linear", "all")
_DIGITS = 9  # of figures: more than a histogram knows, fewer than differ between machines


@dataclass(frozen=True)
class ConfigurationResult:
    """What was written.

    Attributes:
        num_layers: rows of the file.
        bits: how many linear layers have which bits, in words.
        features: whether advice for each feature is in the store.
        warnings: what the user has to know, a sentence each.
    """

    num_layers: int
    bits: str
    features: bool
    warnings: tuple[str, ...]


def export(
    path: str | Path,
    file: str | Path,
    *,
    file_format: str = "json",
    granularity: str = "all",
    smoothquant_alpha: float | None = recommended_features.ALPHA,
    force: bool = False,
    **options: Any,
) -> ConfigurationResult:
    """Recommend a quantization of a store's model, and write it down.

    Args:
        path: directory of the store.
        file: to write.
        file_format: ``json``, or ``mlx`` for what ``mlx.nn.quantize`` takes.
        granularity: see :func:`configuration`.
        smoothquant_alpha: of the smoothing scales among the advice for each feature, which is
            written into the store; None for no such advice.
        force: whether to overwrite ``file``.
        **options: as the attributes of ``recommendation.Options``.

    Raises:
        OptionError: if an option does not fit, or no layer reaches a target.
        ValueError: if the store has no statistics, or cannot be used.
        OSError: if the file exists, or something cannot be written.
    """
    path, file = Path(path), Path(file)
    wanted = recommendation.Options(**options)
    if path.resolve() in file.resolve().parents:
        raise ValueError(f"{file} is within the store; name a file outside of it")
    _check_free(file, force)
    statistics = open_statistics(path)
    objects.check_writable(file.parent)
    recommended = recommendation.of_statistics(statistics, wanted)
    warnings = _unmet(recommended, wanted, weights_alone=file_format == "mlx")
    if file_format == "mlx":
        paths = class_predicate(recommended)
        durable.write(file, _json(paths))
        linear = recommended.isel(layer=recommended.role.values == "input")
        if left_out := linear.sizes["layer"] - len(paths):
            warnings.append(f"{left_out} layers stay as they are: their widths do not divide by 32")
        return ConfigurationResult(
            len(paths), _in_words(recommended, ("weight",)), False, tuple(warnings)
        )
    features = None
    if smoothquant_alpha is not None:
        objects.check_writable(path)
        values = recommended_features.compute(statistics, smoothquant_alpha)
        attributes = {
            "smoothquant_alpha": smoothquant_alpha,
            "outlier_factor": feature_advice.OUTLIER_FACTOR,
            "statistics": statistics.attrs["activations"]["stamp"],
        }
        features = {"store": path.resolve().name, "variables": sorted(values), **attributes}
        risky = recommended_features.risky_layers(values, recommended.weight_bits.values)
        if risky.any():
            warnings.append(
                f"smoothing scales of {risky.sum()} layers are 32 or more with weights of 4 bits "
                f"or fewer, the first is {recommended.layer.values[risky][0]}: such have made "
                f"models collapse; try a smaller --smoothquant-alpha"
            )
    content = configuration(recommended, granularity, features)
    _validate(content)
    data = _json(content)
    if features is not None:
        recommended_features.write(path, values, attributes)
    durable.write(file, data)
    bits = _in_words(recommended, ("activation", "weight"))
    return ConfigurationResult(
        len(content["layer_configs"]), bits, features is not None, tuple(warnings)
    )


def _unmet(recommended: xr.Dataset, options: Options, weights_alone: bool = False) -> list[str]:
    linear = recommended.isel(layer=recommended.role.values == "input")
    warnings = []
    if options.method == "sqnr":
        for what, reached, target in (
            ("activations", linear.worst_sqnr_db, options.activation_target),
            ("weights", linear.weight_sqnr_db, options.weight_target),
        ):
            short = (reached < target).values
            if short.any() and not (weights_alone and what == "activations"):
                warnings.append(
                    f"{what} of {short.sum()} layers do not reach {target:g} dB with "
                    f"{CHOICES[-1]} bits, the first is {linear.layer.values[short][0]}"
                )
    unmet = int((~linear.polynomial_met).sum())
    if unmet and not weights_alone:
        warnings.append(
            f"the clipping ranges of {unmet} of {linear.sizes['layer']} layers follow no "
            f"polynomial in sigma within {options.tolerance:g}; theirs are wider than need be"
        )
    return warnings


def _in_words(recommended: xr.Dataset, kinds: Sequence[str]) -> str:
    linear = recommended.isel(layer=recommended.role.values == "input")
    return "; ".join(
        f"{kind}s: "
        + ", ".join(
            f"{number} with {bits} bits"
            for bits, number in zip(
                *np.unique(linear[f"{kind}_bits"].values, return_counts=True), strict=True
            )
        )
        for kind in kinds
    )


def schema() -> dict[str, Any]:
    """The JSON Schema of the configuration, as the package ships it."""
    source = resources.files("calibzarr.export") / "quantization_config.schema.json"
    return dict(json.loads(source.read_text(encoding="utf-8")))


def configuration(
    recommended: xr.Dataset, granularity: str = "all", features: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The configuration in JSON types, with the date of now.

    Args:
        recommended: of ``recommendation.of_statistics``.
        granularity: ``block`` for the rows of the old files, ``linear`` for those of linear
            layers, or ``all``.
        features: where advice for each feature is, if anywhere.

    Raises:
        OptionError: if there is no such granularity.
    """
    if granularity not in GRANULARITIES:
        raise OptionError(
            f"granularity must be one of {', '.join(GRANULARITIES)}, got {granularity!r}"
        )
    roles = {"block": ("output",), "linear": ("input",), "all": ("input", "output")}[granularity]
    chosen = recommended.isel(layer=np.isin(recommended.role.values, roles))
    columns = {
        str(name): array.values.tolist()
        for name, array in chosen.variables.items()
        if array.dims[0] == "layer"
    }
    phases = recommended.phase.values.tolist()
    sigma = recommended.sigma.values
    ends = {"sigma_min": float(sigma.min()), "sigma_max": float(sigma.max())}
    result = {
        "schema_version": 1,
        # What is not listed gets the most that any listed layer needs.
        "default_config": {
            kind: max(columns[kind], default=8) for kind in ("weight_bits", "activation_bits")
        },
        "layer_configs": {
            name: _layer({key: column[row] for key, column in columns.items()}, phases, ends)
            for row, name in enumerate(columns["layer"])
        },
        "phases": {name: _phase(recommended, row) for row, name in enumerate(phases)},
        "quantizers": {
            "activations": "affine, one range for a tensor, integer zero point",
            "weights": "symmetric, one range for a tensor",
        },
        "provenance": _provenance(recommended),
    }
    return result | ({"features": dict(features)} if features else {})


def _layer(
    own: Mapping[str, Any], phases: Sequence[str], ends: Mapping[str, float]
) -> dict[str, Any]:
    percentiles = (100 * own[f"clip_{end}_fraction"] for end in ("min", "max"))
    linear = own["role"] == "input"
    return {
        "weight_bits": own["weight_bits"],
        "activation_bits": own["activation_bits"],
        "clip_percentile": [_figure(value) for value in percentiles],
        "calibration_stats": {
            **{name: _figure(own[f"value_{name}"]) for name in ("min", "max", "mean", "std")},
            **{name: _figure(own[name]) for name in ("p01", "p99")},
        },
        "clip_min": _figure(own["clip_min"]),
        "clip_max": _figure(own["clip_max"]),
        "sqnr_db": _figure(own["sqnr_db"]),
        "worst_sqnr_db": _figure(own["worst_sqnr_db"]),
        "weight_sqnr_db": _figure(own["weight_sqnr_db"]) if linear else None,
        "module": own["module"],
        "role": own["role"],
        "stream": own["stream"],
        "kind": own["kind"],
        "phases": {
            name: {
                "activation_bits": own["phase_bits"][place],
                "clip_min": _figure(own["phase_clip_min"][place]),
                "clip_max": _figure(own["phase_clip_max"][place]),
                "sqnr_db": _figure(own["phase_sqnr_db"][place]),
            }
            for place, name in enumerate(phases)
            if own["phase_bits"][place]
        },
        "sigma_polynomial": {
            "clip_min": _coefficients(own["polynomial_min"]),
            "clip_max": _coefficients(own["polynomial_max"]),
            **ends,
            "within_tolerance": own["polynomial_met"],
        },
        "reason": own["reason"],
    }


def _phase(recommended: xr.Dataset, row: int) -> dict[str, Any]:
    own = recommended.isel(phase=row)
    first, end = int(own.first_step), int(own.end_step)
    inside = (recommended.step.values >= first) & (recommended.step.values < end)
    result: dict[str, Any] = {"first_step": first, "last_step": end - 1}
    if inside.any():
        sigma = recommended.sigma.values[inside]
        result |= {
            "sigma_max": _figure(sigma.max()),
            "sigma_min": _figure(sigma.min()),
            "activation_bits": int(own.schedule_bits),
            "sqnr_db": _figure(own.schedule_sqnr_db),
        }
    return result


def _figure(value: Any) -> float | None:
    """A number rounded for reading; None where it is unknown or infinite."""
    value = float(value)
    return float(f"{value:.{_DIGITS}g}") + 0.0 if math.isfinite(value) else None  # no -0.0


def _coefficients(padded: Sequence[float]) -> list[float]:
    """Without the zeros of the higher powers; not rounded, since they bound what they bound."""
    degree = max((power for power, value in enumerate(padded) if value), default=0)
    return [value + 0.0 for value in padded[: degree + 1]]


def _provenance(recommended: xr.Dataset) -> dict[str, Any]:
    manifest, options = recommended.attrs, recommended.attrs["options"]
    activations = manifest["activations"]
    own = {
        "sqnr": {
            "activation_target_db": options.activation_target,
            "weight_target_db": options.weight_target,
        },
        "budget": {"mean_bits": options.mean_bits},
        "range": {},
    }[options.method]
    return {
        "method": options.method,
        **own,
        "clip": options.clip if options.method != "range" else "p01 and p99",
        "groups": options.groups,
        "tolerance": options.tolerance,
        "model": manifest["model"],
        "model_fingerprint": manifest["model_fingerprint"],
        "prompts_sha256": manifest["prompts_sha256"],
        "statistics": activations["stamp"],
        "num_images": activations["num_images"],
        "steps": activations["steps"],
        "num_steps": manifest["num_steps"],
        "libraries": {**activations["libraries"], "calibzarr": version("calibzarr")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _validate(content: Mapping[str, Any]) -> None:
    """Check a configuration against the schema, before anything is written.

    Raises:
        ValueError: if it does not fit.
    """
    from jsonschema import Draft202012Validator

    error = next(Draft202012Validator(schema()).iter_errors(content), None)
    if error is not None:
        raise ValueError(f"{error.json_path} of the configuration does not fit: {error.message}")


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def _check_free(file: Path, force: bool) -> None:
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a directory; name a file in it")
    if file.exists() and not force:
        raise FileExistsError(f"{file} exists already; overwrite it with --force")

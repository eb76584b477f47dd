"""A configuration from its file, of version 1 or 2, with what a schema cannot say checked."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from calibzarr.errors import StoreError
from calibzarr.quantization.configuration import json_file
from calibzarr.quantization.configuration.description import (
    ActivationQuantization,
    Configuration,
    LayerConfiguration,
    Phase,
    static,
)
from calibzarr.quantization.quantizers import WEIGHT_QUANTIZERS, Quantizer

SCHEMA_VERSION = 2
UNQUANTIZED = 16  # bits of a row, as older readers want a number
_OLDER = "has no row of a linear layer, and rows of whole blocks say of no layer what it gets"


def read(file: Path) -> Configuration:
    """Read a configuration, of version 1 or 2.

    Raises:
        StoreError: if the file is none, or makes no sense; names file and field.
        OSError: if it cannot be read.
    """
    content = json_file.load(file)
    try:
        return parse(content)
    except StoreError as error:
        raise StoreError(f"{file}: ", error.message) from error


def parse(content: Any) -> Configuration:
    """Read a configuration of version 1 or 2 from JSON types.

    Raises:
        StoreError: if it is none, or makes no sense; names the field, its value, and what is
            allowed.
    """
    version = content.get("schema_version") if isinstance(content, Mapping) else None
    if version is None and isinstance(content, Mapping) and "layer_configs" in content:
        raise StoreError(f"it has no schema_version, as files of older scripts: it {_OLDER}")
    json_file.check(content, 1 if version == 1 else SCHEMA_VERSION)
    linear = {name: row for name, row in content["layer_configs"].items() if row["role"] == "input"}
    if not linear:
        raise StoreError(f"it {_OLDER}; export one that has rows of linear layers")
    phases = () if version == 1 else _phases(content["phases"])
    by_phase = version != 1 and content["activation"]["by_phase"]
    scheme = "tensor" if version == 1 else content["activation"]["quantizer"]
    if version == 1:
        layers = tuple(_layer_of_version_1(name, row) for name, row in linear.items())
    else:
        layers = tuple(_layer(name, row, phases, content) for name, row in linear.items())
    provenance = content.get("provenance", {})
    return Configuration(
        layers=layers,
        phases=phases,
        by_phase=by_phase,
        scheme=scheme,
        model=provenance.get("model"),
        model_fingerprint=provenance.get("model_fingerprint"),
        content=content,
    )


def _phases(said: Mapping[str, Any]) -> tuple[Phase, ...]:
    """The phases, which cover every noise level once, the greatest first, in whatever order."""
    in_any_order = [Phase(name, of["sigma_min"], of["sigma_max"]) for name, of in said.items()]
    phases = tuple(sorted(in_any_order, key=_greatest_first))
    bounds: list[tuple[float | None, Phase, str]] = []
    if phases:
        bounds = [(None, phases[0], "sigma_max"), (None, phases[-1], "sigma_min")]
    bounds += [(before.sigma_min, phase, "sigma_max") for before, phase in pairwise(phases)]
    for expected, phase, end in bounds:
        if getattr(phase, end) != expected:
            outer = "the first phase begins" if end == "sigma_max" else "the last phase ends"
            raise StoreError(
                f"phases.{phase.name}.{end} is {json.dumps(getattr(phase, end))} and must be "
                f"{json.dumps(expected)}: "
                + (f"{outer} without a bound" if expected is None else "where the one before ends")
            )
    for phase in phases:
        low, high = phase.sigma_min, phase.sigma_max
        if low is not None and high is not None and low >= high:
            raise StoreError(
                f"phases.{phase.name}.sigma_min is {low} and must be below sigma_max, {high}"
            )
    return phases


def _greatest_first(phase: Phase) -> float:
    return -np.inf if phase.sigma_max is None else -phase.sigma_max


def _layer(
    name: str, row: Mapping[str, Any], phases: tuple[Phase, ...], content: Mapping[str, Any]
) -> LayerConfiguration:
    scheme, family = (content[kind]["quantizer"] for kind in ("activation", "weight"))
    by_phase = row.get("phases", {})
    if "phases" in row or content["activation"]["by_phase"]:
        names, known = list(by_phase), [phase.name for phase in phases]
        if sorted(names) != sorted(known):
            raise StoreError(
                f"phases of layer {name} are {', '.join(names) or 'missing'} and must be those "
                f"of the file, {', '.join(known) or 'none'}"
            )
    for kind in ("activation", "weight"):
        bits = UNQUANTIZED if row[kind] is None else row[kind]["bits"]
        _equal(f"{kind}_bits of layer {name}", row[f"{kind}_bits"], bits, f"as in its {kind}")
    return LayerConfiguration(
        name=name,
        module=row["module"],
        activation=_activation(row["activation"], scheme, f"activation of layer {name}"),
        by_phase=tuple(
            _activation(
                by_phase[phase.name], scheme, f"activation of layer {name} in phase {phase.name}"
            )
            for phase in phases
            if by_phase
        ),
        weight=_weight(row["weight"], family, f"weight of layer {name}"),
    )


def _activation(
    said: Mapping[str, Any] | None, scheme: str, field: str
) -> ActivationQuantization | None:
    if said is None:
        return None
    bits, scale, zero_point = said["bits"], said.get("scale"), said.get("zero_point")
    _equal(f"highest of {field}", said["highest"], 2**bits - 1, f"with {bits} bits")
    if scheme == "token":
        if not scale is zero_point is None:
            raise StoreError(f"{field} has a scale or zero point: by token each has its own")
        return ActivationQuantization(bits)
    if scale is None or zero_point is None:
        raise StoreError(f"{field} has no scale or no zero_point, and must have both by tensor")
    with np.errstate(over="ignore"):
        representable = 0 < np.float32(scale) < np.inf
    if not representable:
        raise StoreError(f"scale of {field} is {scale} and must be a finite float32 above 0")
    if zero_point > said["highest"]:
        raise StoreError(
            f"zero_point of {field} is {zero_point} and must be a level, "
            f"from 0 to {said['highest']}"
        )
    return ActivationQuantization(bits, float(scale), int(zero_point))


def _weight(said: Mapping[str, Any] | None, family: str, field: str) -> Quantizer | None:
    if said is None:
        return None
    quantizer = Quantizer("weight", said["scheme"], said["bits"])
    if quantizer.scheme.partition("-")[0] != family:
        raise StoreError(f"scheme of {field} is {quantizer.scheme}, and the file's is {family}")
    if quantizer not in WEIGHT_QUANTIZERS:
        allowed = [q.bits for q in WEIGHT_QUANTIZERS if q.scheme == quantizer.scheme]
        raise StoreError(
            f"bits of {field} are {quantizer.bits} and must be one of "
            f"{', '.join(map(str, allowed))} for {quantizer.scheme}"
        )
    _equal(f"group_size of {field}", said["group_size"], quantizer.group_size, "by its scheme")
    for end, level in zip(("lowest", "highest"), quantizer.levels, strict=True):
        _equal(f"{end} of {field}", said[end], level, f"with {quantizer.bits} bits")
    return quantizer


def _equal(field: str, value: int | None, expected: int | None, reason: str) -> None:
    if value != expected:
        raise StoreError(
            f"{field} is {json.dumps(value)} and must be {json.dumps(expected)}, {reason}"
        )


def _layer_of_version_1(name: str, row: Mapping[str, Any]) -> LayerConfiguration:
    low, high, bits = row["clip_min"], row["clip_max"], int(row["activation_bits"])
    if low > high:
        raise StoreError(f"clip_min of layer {name} is {low} and must be at most clip_max, {high}")
    return LayerConfiguration(
        name=name,
        module=row["module"],
        activation=static(low, high, bits),
        by_phase=(),
        weight=Quantizer("weight", "tensor", int(row["weight_bits"])),
    )

"""Configurations in JSON types, made by hand."""

from fnmatch import fnmatch
from types import SimpleNamespace

import numpy as np

from calibzarr.quantization.configuration import parse, static
from calibzarr.quantization.quantizers import Quantizer

PHASES = {"early": (None, 0.75), "mid": (0.75, 0.25), "late": (0.25, None)}
WIDTHS = {"a.image.mlp.fc1": 64, "a.image.mlp.fc2": 96}


def activation(bits, scheme="tensor", low=-1.0, high=2.0):
    """What a row says of inputs; None for 16 bits."""
    if bits == 16:
        return None
    said = {"bits": bits, "lowest": 0, "highest": 2**bits - 1}
    if scheme == "token":
        return said
    levels = static(low, high, bits)
    return {**said, "scale": levels.scale, "zero_point": levels.zero_point}


def weight(bits, scheme="row"):
    """What a row says of a weight; None for 16 bits."""
    if bits == 16:
        return None
    quantizer = Quantizer("weight", scheme, bits)
    lowest, highest = quantizer.levels
    ends = {"lowest": lowest, "highest": highest}
    return {"scheme": scheme, "bits": bits, "group_size": quantizer.group_size, **ends}


def row(name, bits, *, scheme="tensor", weights="row", phases=(4, 5, 6), low=-1.0, high=2.0):
    """A row of a linear layer, of bits of its activations and of its weight."""
    statistics = {"min": low, "max": high, "mean": 0.0, "std": 1.0, "p01": low, "p99": high}
    said = {
        "weight_bits": bits[1],
        "activation_bits": bits[0],
        "clip_percentile": [0.0, 100.0],
        "calibration_stats": statistics,
        "clip_min": low,
        "clip_max": high,
        "module": name.replace("a.", "blocks.0."),
        "role": "input",
        "stream": "image",
        "kind": "mlp.fc1",
        "reason": "by hand",
        "activation": activation(bits[0], scheme, low, high),
        "weight": weight(bits[1], weights),
    }
    if phases:
        by_phase = [activation(own, scheme, low, high) for own in phases]
        said["phases"] = dict(zip(PHASES, by_phase, strict=True))
    return said


def content(bits=((4, 3), (16, 16)), *, by_phase=False, scheme="tensor", weights="row", **options):
    """A configuration of two layers, of these bits of activations and weights.

    Args:
        bits: of each layer's activations and weight.
        by_phase: whether the allocation by phase is in force.
        scheme: of activations.
        weights: scheme of weights.
        options: of the rows.
    """
    options = {"scheme": scheme, "weights": weights, **options}
    family = weights.partition("-")[0]
    return {
        "schema_version": 2,
        "default_config": {"weight_bits": 3, "activation_bits": 4},
        "activation": {"quantizer": scheme, "by_phase": by_phase, "formula": "by hand"},
        "weight": {"quantizer": family, "formula": "by hand"},
        "phases": {
            name: {"first_step": i, "last_step": i, "sigma_min": low, "sigma_max": high}
            for i, (name, (high, low)) in enumerate(PHASES.items())
        },
        "layer_configs": {
            name: row(name, own, **options) for name, own in zip(WIDTHS, bits, strict=True)
        },
        "provenance": {
            "method": "budget",
            "clip": "mse",
            "model": "tiny",
            "model_fingerprint": "0123",
            "prompts_sha256": "4567",
            "statistics": "89ab",
            "sensitivities": None,
            "num_images": 4,
            "steps": [0, 1, 2],
            "num_steps": 3,
            "libraries": {},
            "date": "2026-01-01T00:00:00+00:00",
        },
    }


def layers(widths=WIDTHS):
    """The layers of a model that it is for."""
    return [
        SimpleNamespace(
            name=name, module=name.replace("a.", "blocks.0."), role="input", features=width
        )
        for name, width in widths.items()
    ]


def values(shape, seed=0):
    """Values with outliers and zeros."""
    drawn = np.random.default_rng(seed).standard_t(3, shape).astype(np.float32)
    drawn[0, :4] = 0
    return drawn


RANGE = (-3.0, 5.0)
THIRDS = {"early": (0.7, None), "mid": (0.4, 0.7), "late": (None, 0.4)}


def of_model(
    model,
    *,
    activation=16,
    weight=16,
    phases=None,
    scheme="tensor",
    weights="row",
    ranges=None,
    keep=("y_embedder*",),
):
    """A configuration of all of a model's linear layers, at the same bits.

    Args:
        model: a model.
        activation: bits of all inputs in the static allocation; 16 for unquantized.
        weight: bits of all weights, likewise.
        phases: bits of inputs in the early, mid and late phase; given, they are in force.
        scheme: of activations.
        weights: scheme of weights; layers whose width its groups do not divide stay as they are.
        ranges: ends by name of a layer, for those that are not RANGE.
        keep: globs of layers that stay as they are.
    """
    rows = {}
    for layer in model.layers():
        if layer.role != "input":
            continue
        kept = any(fnmatch(layer.name, pattern) for pattern in keep)
        fits = Quantizer("weight", weights, 4).fits(layer.features)
        bits = (16, 16) if kept else (activation, weight if fits else 16)
        by_phase = [16 if kept else own for own in phases or (activation,) * 3]
        low, high = (ranges or {}).get(layer.name, RANGE)
        own = row(
            layer.name, bits, scheme=scheme, weights=weights, phases=by_phase, low=low, high=high
        )
        rows[layer.name] = {**own, "module": layer.module}
    said = content(by_phase=phases is not None, scheme=scheme, weights=weights)
    provenance = {"model": model.name, "model_fingerprint": model.fingerprint}
    return parse(
        {
            **said,
            "phases": {
                name: {"first_step": i, "last_step": i, "sigma_min": low, "sigma_max": high}
                for i, (name, (low, high)) in enumerate(THIRDS.items())
            },
            "layer_configs": rows,
            "provenance": {**said["provenance"], **provenance},
        }
    )

"""What all output formats share: what is told of a written file, and how JSON is spelled."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from calibzarr.advice.predicted import Lever
from calibzarr.errors import Message
from calibzarr.quantization.configuration import UNQUANTIZED


@dataclass(frozen=True)
class ConfigurationResult:
    """What was written.

    Attributes:
        num_layers: rows of the file.
        bits: how many linear layers have which bits, in words.
        warnings: what the user has to know, a sentence each.
        prediction: what the bits come to, in JSON types; see ``predicted.described``.
        levers: what the next bits in each direction change.
    """

    num_layers: int
    bits: str
    warnings: tuple[str | Message, ...]
    prediction: Mapping[str, Any]
    levers: tuple[Lever, ...] = ()


def linear_layers(recommended: xr.Dataset) -> xr.Dataset:
    """Linear layers alone, without the outputs of blocks."""
    return recommended.isel(layer=recommended.role.values == "input")


def bits_in_words(recommended: xr.Dataset, kinds: Sequence[str]) -> str:
    """How many linear layers have which bits of ``activation`` or ``weight``."""
    linear = linear_layers(recommended)
    return "; ".join(
        f"{kind}s: "
        + ", ".join(
            f"{number} " + ("unquantized" if bits == UNQUANTIZED else f"with {bits} bits")
            for bits, number in zip(
                *np.unique(linear[f"{kind}_bits"].values, return_counts=True), strict=True
            )
        )
        for kind in kinds
    )


def as_json(content: Mapping[str, Any]) -> bytes:
    """A file's bytes."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()

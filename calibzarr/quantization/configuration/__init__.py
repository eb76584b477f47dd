"""The quantization configuration: what it says, how its file is read, which model it fits."""

from calibzarr.quantization.configuration.description import (
    ActivationQuantization,
    Configuration,
    LayerConfiguration,
    Phase,
    static,
)
from calibzarr.quantization.configuration.model_check import ModelLayer, check_model
from calibzarr.quantization.configuration.parsing import SCHEMA_VERSION, UNQUANTIZED, parse, read

__all__ = [
    "SCHEMA_VERSION",
    "UNQUANTIZED",
    "ActivationQuantization",
    "Configuration",
    "LayerConfiguration",
    "ModelLayer",
    "Phase",
    "check_model",
    "parse",
    "read",
    "static",
]

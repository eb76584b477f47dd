"""Whether a configuration is for a model."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Protocol

from calibzarr.errors import StoreError
from calibzarr.quantization.configuration.description import Configuration


class ModelLayer(Protocol):
    """What a configuration must know of a model's layer; see ``models.base.Layer``."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def module(self) -> str: ...  # noqa: D102
    @property
    def role(self) -> str: ...  # noqa: D102
    @property
    def features(self) -> int: ...  # noqa: D102


def check_model(
    configuration: Configuration,
    layers: Sequence[ModelLayer],
    fingerprint: str | None,
    name: str,
) -> None:
    """Check that a configuration is for a model.

    Args:
        configuration: to be applied.
        layers: of the model.
        fingerprint: of the model's full-precision weights; None where it is not known.
        name: of the model.

    Raises:
        StoreError: if it is for other weights, names a layer that the model does not have, or a
            group that does not divide a layer's width.
    """
    known = {layer.name: layer for layer in layers if layer.role == "input"}
    missing = [layer.name for layer in configuration.layers if layer.name not in known]
    absent = ""
    if missing:
        near = get_close_matches(missing[0], known, n=3)
        absent = f"{name} has no layer {missing[0]}"
        absent += f" (near: {', '.join(near)})" if near else ""
        absent += f"; such rows are {len(missing)}" if missing[1:] else ""
    wanted = configuration.model_fingerprint
    if None not in (wanted, fingerprint) and wanted != fingerprint:
        raise StoreError(
            f"the configuration is for other weights: for those of {configuration.model} with "
            f"fingerprint {wanted}, and those of {name} have {fingerprint}"
            + (f"; {absent}" if absent else "")
        )
    if absent:
        raise StoreError(f"the configuration is for another model: {absent}")
    for layer in configuration.layers:
        own = known[layer.name]
        if layer.module != own.module:
            raise StoreError(
                f"module of layer {layer.name} is {layer.module} and must be {own.module}"
            )
        if layer.weight is not None and not layer.weight.fits(own.features):
            raise StoreError(
                f"group_size of layer {layer.name} is {layer.weight.group_size} and must divide "
                f"its width, {own.features}"
            )

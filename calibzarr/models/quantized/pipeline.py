"""DiffusionKit's pipelines with modules that come from a quantized checkpoint alone."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from calibzarr.models import tiny
from calibzarr.models.compatibility import import_diffusionkit, metal_names
from calibzarr.models.loading import hub, pipelines
from calibzarr.models.loading.architectures import is_flux
from calibzarr.models.quantized import checkpoint, layout

kit: Any = import_diffusionkit()


class _QuantizedModules(pipelines.OwnTransformer):
    """What a pipeline on a quantized checkpoint does otherwise; stands before the pipeline."""

    checkpoint: Path

    def fill(self, transformer: nn.Module) -> None:
        """Give the transformer the checkpoint's weights."""
        checkpoint.load(transformer, self.checkpoint, self.dtype)

    def load_t5(self) -> nn.Module:
        """T5 from the checkpoint, where that has it."""
        if layout.has_t5(self.checkpoint):
            return checkpoint.load_t5(self.checkpoint, self.dtype)
        return super().load_t5()

    def generate_image(self, *arguments: Any, **options: Any) -> Any:
        """DiffusionKit's, where there is no argmaxtools and no Metal as well."""
        with metal_names(), _context_names():
            return super().generate_image(*arguments, **options)  # type: ignore[misc]


class QuantizedSD3Pipeline(_QuantizedModules, kit.DiffusionPipeline):
    """Stable Diffusion 3."""


class QuantizedFluxPipeline(_QuantizedModules, kit.FluxPipeline):
    """FLUX.1."""


class QuantizedTinyPipeline(_QuantizedModules, tiny.TinyPipeline):
    """The embedded model."""

    t5 = None  # so that DiffusionKit does not set one up

    def __init__(self) -> None:
        super().__init__(weights=None)
        hub.check_sha256(tiny.WEIGHTS, tiny.SHA256)
        others = [name for name in tiny.modules(self) if name != "mmdit"]
        tiny.load_weights(self, tiny.WEIGHTS, others)
        self.load_mmdit()

    def empty_mmdit(self) -> nn.Module:
        """A transformer of the checkpoint's sizes, whose weights nobody has computed."""
        return kit.mmdit.MMDiT(self.mmdit.config)


def load_tiny(directory: Path) -> QuantizedTinyPipeline:
    """The embedded model's pipeline on a checkpoint."""
    bound: Any = type("QuantizedTinyPipeline", (QuantizedTinyPipeline,), {"checkpoint": directory})
    return bound()


def load(directory: Path, architecture: str, version: str, decoder: Path | None) -> Any:
    """The pipeline of a model on a checkpoint; see :func:`pipelines.load`.

    Raises:
        StoreError: if the checkpoint is damaged, or is of another model.
    """
    class_ = QuantizedFluxPipeline if is_flux(architecture) else QuantizedSD3Pipeline
    return pipelines.load(architecture, version, class_, decoder, checkpoint=directory)


@contextmanager
def _context_names() -> Iterator[None]:
    """Let DiffusionKit print where it runs, which argmaxtools tells it and a stand-in does not."""
    context = kit.DiffusionKitInferenceContext
    told = {
        "os_spec": lambda _: {"os": platform.platform()},
        "device_spec": lambda _: {"device": str(mx.default_device())},
    }
    added = {name: function for name, function in told.items() if not hasattr(context, name)}
    for name, function in added.items():
        setattr(context, name, function)
    try:
        yield
    finally:
        for name in added:
            delattr(context, name)

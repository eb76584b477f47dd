"""DiffusionKit's pipelines with a transformer that comes from a quantized checkpoint alone."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from calibzarr.models import tiny, weights
from calibzarr.models.compatibility import import_diffusionkit, lenient_updates, metal_names
from calibzarr.models.quantized import checkpoint
from calibzarr.models.text.tokenizers import replace_clip_tokenizers

kit: Any = import_diffusionkit()


class _QuantizedTransformer:
    """What a pipeline with a quantized transformer does otherwise; stands before the pipeline."""

    checkpoint: Path
    mmdit: nn.Module
    dtype: mx.Dtype

    def load_mmdit(
        self,
        only_modulation_dict: bool = False,  # noqa: FBT001, FBT002 - as DiffusionKit has it
    ) -> Any:
        """Build the transformer; or give adaLN's arrays, which DiffusionKit empties."""
        if not only_modulation_dict:
            self.mmdit = self.empty_mmdit()
            checkpoint.load(self.mmdit, self.checkpoint, self.dtype)
            self._modulation = [
                (path, array)
                for path, array in tree_flatten(self.mmdit.parameters())
                if "adaLN" in path
            ]
        return self._modulation if only_modulation_dict else None

    def empty_mmdit(self) -> nn.Module:
        """A transformer of the checkpoint's sizes, whose weights nobody has computed."""
        config = kit.model_io._CONFIG[self.mmdit_ckpt]  # type: ignore[attr-defined]
        config.low_memory_mode = False
        return kit.mmdit.MMDiT(config)

    def generate_image(self, *arguments: Any, **options: Any) -> Any:
        """DiffusionKit's, where there is no argmaxtools and no Metal as well."""
        with metal_names(), _context_names():
            return super().generate_image(*arguments, **options)  # type: ignore[misc]


class QuantizedSD3Pipeline(_QuantizedTransformer, kit.DiffusionPipeline):
    """Stable Diffusion 3."""


class QuantizedFluxPipeline(_QuantizedTransformer, kit.FluxPipeline):
    """FLUX.1."""

    def empty_mmdit(self) -> nn.Module:
        """A transformer of the checkpoint's sizes, whose weights nobody has computed."""
        config = kit.model_io.FLUX_SCHNELL  # also of dev, in DiffusionKit 0.5.2
        config.low_memory_mode = False
        return kit.mmdit.MMDiT(config)


class QuantizedTinyPipeline(_QuantizedTransformer, tiny.TinyPipeline):
    """The embedded model."""

    t5 = None  # so that DiffusionKit does not set one up

    def __init__(self) -> None:
        super().__init__(weights=None)
        weights.check_sha256(tiny.WEIGHTS, tiny.SHA256)
        others = [name for name in tiny.modules(self) if name != "mmdit"]
        tiny.load_weights(self, tiny.WEIGHTS, others)
        self.load_mmdit()

    def empty_mmdit(self) -> nn.Module:
        """A transformer of the checkpoint's sizes, whose weights nobody has computed."""
        return kit.mmdit.MMDiT(self.mmdit.config)


def load_tiny(directory: Path) -> QuantizedTinyPipeline:
    """The embedded model's pipeline on a checkpoint."""
    return _located(QuantizedTinyPipeline, directory)()


def load(directory: Path, repository: str | None, *, is_flux: bool) -> Any:
    """The pipeline of a repository's model on a checkpoint.

    Raises:
        StoreError: if the checkpoint is damaged, or is of another model.
    """
    pipeline_class = _located(QuantizedFluxPipeline if is_flux else QuantizedSD3Pipeline, directory)
    with lenient_updates():
        pipeline = pipeline_class(
            w16=True,
            a16=True,
            shift=1.0 if is_flux else 3.0,
            use_t5=True,
            model_version=repository,
            low_memory_mode=False,
        )
    replace_clip_tokenizers(pipeline)
    return pipeline


def _located(pipeline: type, directory: Path) -> Any:
    """The class for one checkpoint: DiffusionKit's constructors load the transformer."""
    return type(pipeline.__name__, (pipeline,), {"checkpoint": directory})


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

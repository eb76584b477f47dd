"""DiffusionKit's pipelines behind the seam: SD3-style and FLUX-style transformers on MLX."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from calibzarr.models.base import (
    Denoise,
    Layer,
    Receive,
    ReceiveStep,
    Schedule,
    TextTokenizer,
    Transform,
)
from calibzarr.models.compatibility import import_diffusionkit
from calibzarr.models.formulas import NOISE, PIXELS_PER_LATENT
from calibzarr.models.loading.fingerprint import deciding_modules, fingerprint
from calibzarr.models.loading.mmdit import empty_copy
from calibzarr.models.memory import batch_bytes
from calibzarr.models.modulation import cached_modulation, unchanged_parameters
from calibzarr.models.observation import observing, observing_cached
from calibzarr.models.quantized import checkpoint, layout
from calibzarr.models.quantized.fake_quantization import AtCall, FakeQuantization
from calibzarr.models.quantized.parameters import ModuleParameters, TextEncoder
from calibzarr.models.quantized.transformed_inputs import transforming_inputs
from calibzarr.models.quantized.tunable import Grid
from calibzarr.models.quantized.tuning import Output, ScaleTuner
from calibzarr.models.signed_products import signed_products
from calibzarr.models.text.encoders import TextConditioning, TextEncoders
from calibzarr.models.text.tokenizers import tokenizers
from calibzarr.models.transformer import observable_layers
from calibzarr.quantization.configuration import Configuration
from calibzarr.quantization.quantizers import QuantizationErrors
from calibzarr.statistics.histogram import LogBins

kit: Any = import_diffusionkit()


class DiffusionKitModel(ModuleParameters, TextEncoders):
    """One of DiffusionKit's pipelines as a :class:`calibzarr.models.base.Model`.

    Args:
        name: what the registry calls it.
        pipeline: a ``DiffusionPipeline`` or a subclass, with its models loaded.
    """

    def __init__(self, name: str, pipeline: Any) -> None:
        self.name = name
        self.pipeline = pipeline
        modules = deciding_modules(pipeline)
        self.fingerprint = fingerprint(modules)
        self._module_sizes = {
            name: sum(value.nbytes for _, value in tree_flatten(module.parameters()))
            for name, module in modules.items()
        }
        self.activation_dtype = str(pipeline.activation_dtype).removeprefix("mlx.core.")
        self.sampler = f"euler(shift={float(pipeline.sampler.shift)})"
        self._layers = observable_layers(pipeline.mmdit)
        self._quantization: FakeQuantization | None = None

    def quantized(self, configuration: Configuration) -> "DiffusionKitModel":
        """A model that samples with the quantized layers, of this one's arrays otherwise."""
        model = copy.copy(self)
        model._quantization = FakeQuantization(self.pipeline.mmdit, self._layers, configuration)
        return model

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """Sizes of (channel, height, width) for square images of ``image_size`` pixels."""
        extent = image_size // PIXELS_PER_LATENT
        return int(self.pipeline.mmdit.config.vae_latent_dim), extent, extent

    def schedule(self, num_steps: int) -> Schedule:
        """Noise levels for ``num_steps`` model calls, as DiffusionKit's sampler has them."""
        sigmas = self.pipeline.get_sigmas(self.pipeline.sampler, num_steps)
        return Schedule(
            sigma=np.asarray(sigmas), timestep=np.asarray(self.pipeline.sampler.timestep(sigmas))
        )

    def initial_latents(
        self, seeds: Sequence[int], image_size: int, schedule: Schedule
    ) -> mx.array:
        """First states, one for each seed: noise at the schedule's first sigma."""
        channel, height, width = self.latent_shape(image_size)
        noise = self.from_numpy(
            np.stack([NOISE.draw(seed, (channel, height, width)) for seed in seeds])
        )
        empty = self.pipeline.get_empty_latent(height, width)
        sigmas = mx.array(schedule.sigma)
        return self.pipeline.sampler.noise_scaling(
            sigmas[0], noise, empty, self.pipeline.max_denoise(sigmas)
        )

    def tokenizers(self) -> dict[str, TextTokenizer]:
        """What makes tokens of a text for each text encoder, by its name."""
        return tokenizers(self.pipeline)

    @contextmanager
    def denoiser(
        self,
        conditioning: TextConditioning,
        schedule: Schedule,
        steps: Sequence[int] | None = None,
    ) -> Iterator[Denoise]:
        """Give the function that estimates the noise-free latents at a step."""
        sigmas = mx.array(schedule.sigma)
        timesteps = mx.array(schedule.timestep).astype(self.pipeline.activation_dtype)
        model = kit.CFGDenoiser(self.pipeline)
        wanted = range(len(schedule.sigma)) if steps is None else steps
        with self._modulated(conditioning.pooled, timesteps, schedule.sigma, wanted) as at_call:

            def denoise(latents: mx.array, step: int) -> mx.array:
                with at_call(step):
                    return model(
                        latents,
                        timesteps[step],
                        sigmas[step],
                        conditioning=conditioning.tokens,
                        cfg_weight=conditioning.cfg_weight,
                    )

            yield denoise

    @contextmanager
    def _modulated(
        self, pooled: mx.array, timesteps: mx.array, sigma: np.ndarray, steps: Sequence[int]
    ) -> Iterator[AtCall]:
        """Compute ahead what calls look up, and give the context that one is made in."""
        if self._quantization is not None:
            with self._quantization.modulated(pooled, timesteps, sigma, steps) as at_call:
                yield at_call
        else:
            wanted = timesteps[mx.array(list(steps))]
            with cached_modulation(self.pipeline.mmdit, pooled, wanted):
                yield lambda _: nullcontext()

    def batch_bytes(self, num_images: int, image_size: int, num_steps: int, *, guided: bool) -> int:
        """Estimate of the bytes that sampling images together takes beside the weights."""
        on_cpu = mx.default_device().type == mx.DeviceType.cpu
        return batch_bytes(
            self.pipeline, num_images, image_size, num_steps, guided=guided, on_cpu=on_cpu
        )

    def to_numpy(self, latents: mx.array) -> np.ndarray:
        """Compute latents; shape (image, channel, height, width), float32."""
        return np.asarray(latents.astype(mx.float32)).transpose(0, 3, 1, 2)

    def from_numpy(self, latents: np.ndarray) -> mx.array:
        """Latents of shape (image, channel, height, width), channels last, as float32."""
        return mx.array(latents.astype(np.float32)).transpose(0, 2, 3, 1)

    def picture(self, latents: np.ndarray) -> np.ndarray:
        """What :meth:`decode` rounds: shape (row, column, rgb), float32, from 0 to 1."""
        return np.asarray(self._picture(latents).astype(mx.float32))

    def _picture(self, latents: np.ndarray) -> mx.array:
        final = self.pipeline.latent_format.process_out(self.from_numpy(latents[None]))
        return self.pipeline.decode_latents_to_image(final.astype(self.pipeline.activation_dtype))[
            0
        ]

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Decode one image's final latents, (channel, height, width), to (row, column, rgb)."""
        return np.asarray((self._picture(latents) * 255).astype(mx.uint8))

    def layers(self) -> tuple[Layer, ...]:
        """Every linear layer's input and every block's output, in order of depth."""
        return self._layers

    def observing(
        self, num_images: int, bins: LogBins, receive: Receive
    ) -> AbstractContextManager[None]:
        """Observe every layer of a denoiser that is opened and called in this context."""
        return observing(self.pipeline.mmdit, self.layers(), num_images, bins, receive)

    def observe_cached(
        self,
        conditioning: TextConditioning,
        schedule: Schedule,
        steps: Sequence[int],
        num_images: int,
        bins: LogBins,
        receive: ReceiveStep,
    ) -> None:
        """Observe the cached layers but text-only ones, without a call of the denoiser."""
        mmdit = self.pipeline.mmdit
        with (
            observing_cached(mmdit, self.layers(), steps, num_images, bins, receive),
            self.denoiser(conditioning, schedule, steps),
        ):
            pass

    def transforming_inputs(self, transform: Transform) -> AbstractContextManager[None]:
        """Give linear layers, within a context, what ``transform`` makes of their inputs."""
        return transforming_inputs(self.pipeline.mmdit, self.layers(), transform)

    def inputs(
        self,
        latents: mx.array,
        conditioning: TextConditioning,
        schedule: Schedule,
        step: int,
        layers: Sequence[int],
    ) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        """What linear layers get in one call, one array after the other."""
        readers: dict[str, list[int]] = {}
        for index in layers:
            readers.setdefault(self.layers()[index].input_group, []).append(index)
        wanted = {indices[0]: tuple(indices) for indices in readers.values()}
        kept: list[tuple[tuple[int, ...], mx.array]] = []

        def keep(layer: int, values: mx.array) -> mx.array:
            if layer in wanted:
                kept.append((wanted[layer], values))
            return values

        with (
            self.transforming_inputs(keep),
            self.denoiser(conditioning, schedule, [step]) as denoise,
        ):
            denoise(latents, step)  # computed only as far as what is kept
        while kept:
            indices, values = kept.pop(0)
            features = np.asarray(values.astype(mx.float32))
            yield indices, features.reshape(len(features), -1, features.shape[-1])

    def signed_products(
        self,
        latents: mx.array,
        conditioning: TextConditioning,
        schedule: Schedule,
        step: int,
        probes: np.ndarray,
        errors: QuantizationErrors,
    ) -> tuple[np.ndarray, np.ndarray]:
        """First-order effect of every quantizer on random sums of the guided output."""
        num_images, num_probes = probes.shape[:2]
        rows = [
            mx.repeat(array, num_probes, axis=0)
            for array in (latents, conditioning.tokens, conditioning.pooled)
        ]
        output, timestep = self._output(conditioning.cfg_weight, schedule, step)
        with unchanged_parameters(self.pipeline.mmdit):  # blocks run again on the way back
            return signed_products(
                self.pipeline.mmdit,
                self.layers(),
                output,
                (*rows, timestep),
                self.from_numpy(probes.reshape(-1, *probes.shape[2:])),
                (num_images, num_probes),
                errors,
            )

    def _output(self, cfg_weight: float, schedule: Schedule, step: int) -> tuple[Output, mx.array]:
        """The guided output as a function, and the timestep, which it takes."""
        guided = kit.CFGDenoiser(self.pipeline)
        sigma = mx.array(schedule.sigma)[step]
        timestep = mx.array(schedule.timestep).astype(self.pipeline.activation_dtype)[step]

        def output(x: mx.array, tokens: mx.array, pooled: mx.array, told: mx.array) -> mx.array:
            # With the timestep among the arguments: t_embedder depends on nothing else.
            with cached_modulation(self.pipeline.mmdit, pooled, told[None]):
                denoised = guided(x, told, sigma, conditioning=tokens, cfg_weight=cfg_weight)
            return (x - denoised) / sigma

        return output, timestep

    def weight(self, layer: Layer) -> np.ndarray | None:
        """Weight of a linear layer, shape (output, feature), float32; None for a block."""
        module = dict(self.pipeline.mmdit.named_modules())[layer.module]
        if not isinstance(module, nn.Linear):
            return None
        return np.asarray(module.weight.astype(mx.float32))

    def _module(self) -> nn.Module:
        mmdit: nn.Module = self.pipeline.mmdit
        return mmdit

    def t5(self) -> TextEncoder | None:
        """T5, which a checkpoint can hold as well; None where the model has none."""
        encoder = self.read_t5()
        return None if encoder is None else TextEncoder(encoder)

    def module_sizes(self) -> dict[str, int]:
        """Bytes of the weights of the transformer, the text encoders and the decoder, by name."""
        return self._module_sizes

    def with_checkpoint(self, directory: Path) -> "DiffusionKitModel":
        """The same model with the quantized transformer of a checkpoint, and its T5 if any."""
        model = copy.copy(self)
        model.pipeline = copy.copy(self.pipeline)
        model.pipeline.mmdit = empty_copy(self.pipeline.mmdit)
        checkpoint.load(model.pipeline.mmdit, directory, self.pipeline.dtype)
        if layout.has_t5(directory):
            model.pipeline.load_t5 = partial(checkpoint.load_t5, directory, self.pipeline.dtype)
            model.pipeline.t5_encoder = None  # read when it is used
        return model

    def tuner(self, grids: Mapping[int, Grid]) -> ScaleTuner:
        """Begin to tune a quantized copy of the transformer."""
        model = copy.copy(self)
        model.pipeline = copy.copy(self.pipeline)
        mmdit = model.pipeline.mmdit = empty_copy(self.pipeline.mmdit)
        mmdit.update(self.pipeline.mmdit.parameters())
        model.pipeline.t5_encoder = None  # nor does it hold the memory of this one's
        return ScaleTuner(mmdit, model._output, self._layers, grids)

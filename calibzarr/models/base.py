"""The seam: what the sampler and the collector need of a model, and no more."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from calibzarr.quantization.configuration import Configuration
from calibzarr.quantization.quantizers import QuantizationErrors
from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.reduction import Reduction

Array = Any
"""Latents in the model's own framework and layout, one image a row; they add and multiply."""

Conditioning = Any
"""What a model makes of prompts; only the model that made it can read it."""

Receive = Callable[[Sequence[int], Reduction], None]
"""``receive(layers, reduction)``: indices of the layers that share the reduced values."""

ReceiveStep = Callable[[int, Sequence[int], Reduction], None]
"""``receive(step, layers, reduction)``: the same, at one of several steps."""

Transform = Callable[[int, Array], Array]
"""``inputs = transform(layer, inputs)``, by the index of the layer in ``layers()``."""

Denoise = Callable[[Array, int], Array]
"""``denoised = denoise(latents, step)``."""


@dataclass(frozen=True)
class TextTokenizer:
    """What makes tokens of a text for a text encoder.

    Attributes:
        tokenize: ids of a text, with those that begin and end it, cut to ``max_length``.
        max_length: most tokens of a text.
        former: the same as it was for stores whose manifest says nothing of tokens.
    """

    tokenize: Callable[[str], Sequence[int]]
    max_length: int
    former: Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Schedule:
    """Noise levels of a sampling.

    Attributes:
        sigma: shape (step,), float32, falling; the last is 0.
        timestep: shape (step,), float32, what the model is told of each sigma.
    """

    sigma: np.ndarray
    timestep: np.ndarray

    @property
    def num_steps(self) -> int:
        """Model calls: one fewer than states."""
        return len(self.sigma) - 1

    def euler_step(self, latents: Array, denoised: Array, step: int) -> Array:
        """The next state by Euler's method, operation by operation as DiffusionKit's sampler."""
        d = (latents - denoised) / float(self.sigma[step])
        dt = self.sigma[step + 1] - self.sigma[step]
        return latents + d * float(dt)


@dataclass(frozen=True)
class Layer:
    """Values that can be observed in the transformer.

    Attributes:
        name: ``mm_block_0.image.attn.q_proj`` for a linear layer, ``mm_block_0`` for a block.
        module: exact path in the model's parameter tree.
        block: ``mm_block_0``, or the embedder's or final layer's name.
        stream: ``image``, ``text`` or ``unified``.
        kind: ``attn.q_proj``, ..., ``mlp.fc2``, ``block``.
        role: ``input`` (of a linear layer) or ``output`` (of a block).
        features: width of the observed values.
        input_group: name of the first layer that reads the same values; its own if no other does.
        tied_group: name of the first layer that gets the same bits, as q, k and v do; or its own.
        follows: activation function that the values leave, ``gelu`` or another; "" if none.
        text_only: whether the values depend on the text or the guidance alone: the same at every
            step.
        cached: whether it runs as a denoiser is opened, once for each step, and not in its calls.
    """

    name: str
    module: str
    block: str
    stream: str
    kind: str
    role: str
    features: int
    input_group: str
    tied_group: str
    follows: str = ""
    text_only: bool = False
    cached: bool = False


class Model(Protocol):
    """A text-to-image diffusion transformer with its text encoders and its decoder.

    Attributes:
        name: the name that the registry knows it by.
        fingerprint: of all weights that decide a picture; equal weights, equal fingerprint.
        activation_dtype: name of the dtype that the transformer computes in.
        sampler: name of the sampler and its parameters.
    """

    name: str
    fingerprint: str
    activation_dtype: str
    sampler: str

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """Sizes of (channel, height, width) for square images of ``image_size`` pixels."""

    def schedule(self, num_steps: int) -> Schedule:
        """Noise levels for ``num_steps`` model calls."""

    def initial_latents(self, seeds: Sequence[int], image_size: int, schedule: Schedule) -> Array:
        """First states, one for each seed: noise at the schedule's first sigma."""

    def encode(
        self, prompts: Sequence[str], cfg_weight: float, guidance: float | None = None
    ) -> Conditioning:
        """Encode prompts, and the empty negative prompt where ``cfg_weight`` is above 0.

        Args:
            prompts: one for each image of a batch.
            cfg_weight: weight of classifier-free guidance, which the conditioning knows from here
                on; 0 for none.
            guidance: that a model is told of which was distilled to be told; given to no other.
        """

    def denoiser(
        self,
        conditioning: Conditioning,
        schedule: Schedule,
        steps: Sequence[int] | None = None,
    ) -> AbstractContextManager[Denoise]:
        """Give, within a context, the function that estimates the noise-free latents.

        Its two arguments are latents, one row for each prompt, and the index of a step: any,
        or one of ``steps`` where those are given, which saves the preparation of the others.
        When the context ends, also by an exception, the model is as it was before.
        """

    def to_numpy(self, latents: Array) -> np.ndarray:
        """Compute latents; shape (image, channel, height, width), float32."""

    def from_numpy(self, latents: np.ndarray) -> Array:
        """Latents of shape (image, channel, height, width) for this model."""

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Decode one image's final latents.

        Args:
            latents: shape (channel, height, width).

        Returns:
            Shape (row, column, rgb), uint8.
        """

    def layers(self) -> tuple[Layer, ...]:
        """All values that can be observed in the transformer, in order of depth."""

    def observing(
        self, num_images: int, bins: LogBins, receive: Receive
    ) -> AbstractContextManager[None]:
        """Observe every layer, within a context, of a denoiser that is opened and called in it.

        Args:
            num_images: images of the batch.
            bins: of the histograms.
            receive: called with the indices in ``layers()`` of the layers that share an array,
                and the reduction of its values.

        Raises:
            RuntimeError: if layers share arrays otherwise than their ``input_group`` says, or when
                the context ends, if a layer was never called.
        """

    def weight(self, layer: Layer) -> np.ndarray | None:
        """Weight of a linear layer, shape (output, feature), float32; None for a block."""


def encoded(
    model: Model, prompts: Sequence[str], cfg_weight: float, guidance: float | None
) -> Conditioning:
    """:meth:`Model.encode`, of models that know nothing of a guidance as well."""
    told = {} if guidance is None else {"guidance": guidance}
    return model.encode(prompts, cfg_weight, **told)


@runtime_checkable
class UnloadingModel(Model, Protocol):
    """A model with a large text encoder, which can leave memory between prompts.

    Its conditionings have ``nbytes``, their bytes in memory.

    Attributes:
        unloads: whether it has one.
    """

    @property
    def unloads(self) -> bool: ...  # noqa: D102 - an attribute

    def unload_text_encoder(self) -> None:
        """Free the memory of the text encoder; what needs it reads it again."""

    def joined(self, conditionings: Sequence[Conditioning]) -> Conditioning:
        """What ``encode`` gives of several prompts, from what it gives of each."""


@runtime_checkable
class TokenizingModel(Model, Protocol):
    """A model that tells the tokens that its text encoders read."""

    def tokenizers(self) -> Mapping[str, TextTokenizer]:
        """What makes tokens of a text for each text encoder, by its name."""


@runtime_checkable
class CachingModel(Model, Protocol):
    """A model with ``cached`` layers, which can be observed at every call at little cost."""

    def observe_cached(
        self,
        conditioning: Conditioning,
        schedule: Schedule,
        steps: Sequence[int],
        num_images: int,
        bins: LogBins,
        receive: ReceiveStep,
    ) -> None:
        """Observe the cached layers but text-only ones, without a call of the denoiser.

        Args:
            conditioning: of the images' prompts.
            schedule: of the sampling.
            steps: indices of calls.
            num_images: images of the batch.
            bins: of the histograms.
            receive: as for :meth:`observing`, with the step.

        Raises:
            RuntimeError: as for :meth:`observing`.
        """


@runtime_checkable
class DifferentiableModel(Model, Protocol):
    """A model whose layers' sensitivities can be measured."""

    def picture(self, latents: np.ndarray) -> np.ndarray:
        """What :meth:`decode` rounds: shape (row, column, rgb), float32, from 0 to 1."""

    def transforming_inputs(self, transform: Transform) -> AbstractContextManager[None]:
        """Give linear layers, within a context, what ``transform`` makes of their inputs.

        It holds for a denoiser that is opened and called in the context.
        """

    def inputs(
        self,
        latents: Array,
        conditioning: Conditioning,
        schedule: Schedule,
        step: int,
        layers: Sequence[int],
    ) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        """What linear layers get in one call, one array after the other.

        Args:
            latents: states at ``step``, one row for each image.
            conditioning: of the images' prompts.
            schedule: of the sampling.
            step: index of the call.
            layers: indices in ``layers()``.

        Yields:
            The chosen layers of an input group, and their values, shape (row, token, feature),
            float32: rows of all prompts, then of all negative ones under guidance.
        """

    def signed_products(
        self,
        latents: Array,
        conditioning: Conditioning,
        schedule: Schedule,
        step: int,
        probes: np.ndarray,
        errors: QuantizationErrors,
    ) -> tuple[np.ndarray, np.ndarray]:
        """First-order effect of every quantizer on random sums of the guided output.

        Args:
            latents: states at ``step``, one row for each image.
            conditioning: of the images' prompts.
            schedule: of the sampling.
            step: index of the call.
            probes: weights of the sums of ``(latents - denoised) / sigma``, 1 and -1, shape
                (image, probe, channel, height, width).
            errors: of every quantizer, on any layer's inputs and weight.

        Returns:
            Sums of gradient times quantization error, shape (layer, quantizer, image, probe),
            float32: of layers that share their input for all of them together, 0 where the output
            does not depend on a layer, NaN where there is no such quantization; and the output's
            sum of squares, shape (image,), float64. Afterwards the model is as it was before.
        """


@runtime_checkable
class QuantizableModel(Model, Protocol):
    """A model that can be run as a configuration says."""

    def quantized(self, configuration: Configuration) -> Model:
        """A model that samples with the quantized layers; this one stays as it is.

        Its name, its fingerprint and all that is no linear layer are those of this one.

        Args:
            configuration: of layers that this model has, in numbers that fit them.
        """

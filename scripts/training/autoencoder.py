"""The first stage: DiffusionKit's VAE encoder and decoder, trained together.

A variational autoencoder (arXiv 1312.6114) on freshly drawn pictures: squared error plus a small
weight on the Kullback-Leibler divergence of the latents from a normal distribution, which keeps
them near zero and the decoder indifferent to small errors.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np

from calibzarr.models.tiny import TinyPipeline
from calibzarr.prompts.shapes import Scene, scenes
from training import checkpoints, loop
from training.activations import fast_activations
from training.pictures import draw_all
from training.rates import warm_then_cosine


@dataclass(frozen=True)
class Settings:
    """How the autoencoder is trained.

    ``decoder_only`` goes on from the weights that are there and leaves the encoder alone, so that
    the latents stay as they are. ``small_part`` of the pictures have the size "small", besides
    those that have it by chance.
    """

    steps: int = 4000
    batch_size: int = 8
    learning_rate: float = 2.5e-3
    warmup: int = 50
    divergence_weight: float = 2e-4
    gradient_norm: float = 1.0
    seed: int = 1
    decoder_only: bool = False
    small_part: float = 0.0
    checkpoint_every: int = 100


DECODER = Settings(
    steps=2500, learning_rate=2e-3, seed=4, decoder_only=True, small_part=0.5, checkpoint_every=250
)
"""How the decoder is trained further: small shapes are a small part of the squared error."""


class Autoencoder(nn.Module):
    """An encoder and a decoder of DiffusionKit's, for pictures from -1 to 1."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def initialise(self, seed: int) -> None:
        """Draw the weights so that signals keep their size and residual branches begin small."""
        generator = np.random.default_rng(seed)
        for name, module in sorted(self.named_modules(), key=lambda item: item[0]):
            if isinstance(module, nn.Conv2d | nn.Linear):
                weight = generator.standard_normal(module.weight.shape, np.float32)
                weight /= np.sqrt(weight[0].size)
                branch_end = name.endswith(("resnets.0.conv2", "out_proj")) or (
                    "mid_blocks" in name and name.endswith("conv2")
                )
                module.weight = mx.array(0.1 * weight if branch_end else weight)
                module.bias = mx.zeros_like(module.bias)
        # Little noise at first: what the decoder cannot read, the encoder does not learn to write.
        bias = self.encoder.conv_out.bias
        half = mx.arange(bias.size) < bias.size // 2
        self.encoder.conv_out.bias = mx.where(half, bias, -5.0)

    def encode(self, pictures: mx.array) -> tuple[mx.array, mx.array]:
        """Mean and logarithm of the variance of the latents."""
        encoder = self.encoder
        x = encoder.conv_in(pictures)
        for block in encoder.down_blocks:
            for resnet in block.resnets:
                x = resnet(x)
            if "downsample" in block:
                x = _halve(x, block.downsample)
        for block in encoder.mid_blocks:
            x = block(x)
        x = encoder.conv_out(nn.silu(encoder.conv_norm_out(x)))
        mean, log_variance = mx.split(x, 2, axis=-1)
        return mean, mx.clip(log_variance, -12, 4)

    def decode(self, latents: mx.array) -> mx.array:
        """The decoder without its evaluation of each block, which gradients do not allow."""
        decoder = self.decoder
        x = decoder.conv_in(latents)
        for block in (*decoder.mid_blocks, *reversed(decoder.up_blocks)):
            x = block(x)
        return decoder.conv_out(nn.silu(decoder.conv_norm_out(x)))


def _halve(x: mx.array, convolution: nn.Conv2d) -> mx.array:
    """DiffusionKit's convolution of stride 2, as one of stride 1 over squares of four pixels.

    MLX computes the gradient of a stride number by number, several times slower.
    """
    batch, height, width, channels = x.shape
    x = mx.pad(x, [(0, 0), (0, 2), (0, 2), (0, 0)])
    rows, columns = height // 2 + 1, width // 2 + 1
    x = x.reshape(batch, rows, 2, columns, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    weight = mx.pad(convolution.weight, [(0, 0), (0, 1), (0, 1), (0, 0)])
    weight = weight.reshape(-1, 2, 2, 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    folded = x.reshape(batch, rows, columns, 4 * channels)
    return mx.conv2d(folded, weight.reshape(-1, 2, 2, 4 * channels)) + convolution.bias


def loss(
    model: Autoencoder, pictures: mx.array, noise: mx.array, divergence_weight: float
) -> tuple[mx.array, mx.array]:
    """The loss of a batch, and its squared error alone, in units of [-1, 1]."""
    mean, log_variance = model.encode(pictures)
    decoded = model.decode(mean + mx.exp(0.5 * log_variance) * noise)
    squared = mx.square(decoded - pictures).mean()
    divergence = 0.5 * (mx.square(mean) + mx.exp(log_variance) - 1 - log_variance).mean()
    return squared + divergence_weight * divergence, squared


def train(
    pipeline: TinyPipeline,
    path: Path,
    settings: Settings,
    say: Callable[[str], None],
) -> None:
    """Train the pipeline's encoder and decoder, from the checkpoint at ``path`` if there is one.

    Args:
        pipeline: its encoder and decoder are changed in place.
        path: of the checkpoint.
        settings: how to train.
        say: receives a line of progress now and then.

    Raises:
        ValueError: if the checkpoint is of other settings.
        OSError: if the checkpoint cannot be written.
    """
    model = Autoencoder(pipeline.encoder, pipeline.decoder)
    if settings.decoder_only:
        model.encoder.freeze()
    else:
        model.initialise(settings.seed)
    optimizer = optimizers.AdamW(
        warm_then_cosine(settings.learning_rate, settings.warmup, settings.steps),
        betas=[0.9, 0.99],
        weight_decay=0.0,
    )
    optimizer.init(model.trainable_parameters())
    done = 0
    if path.exists():
        done, trees = checkpoints.load(path, settings)
        model.update(trees["model"])
        optimizer.state = trees["optimizer"]
    known = [scene for scene in scenes() if not scene.held_out]

    gradient = nn.value_and_grad(model, loss)

    def advance(step: int) -> float:
        generator = np.random.default_rng((settings.seed, step))
        chosen = _choose(known, settings, generator)
        pictures = mx.array(2 * draw_all(chosen, generator) - 1)
        noise = mx.array(generator.standard_normal((len(chosen), 8, 8, 16), np.float32))
        (_, squared), gradients = gradient(model, pictures, noise, settings.divergence_weight)
        gradients, _ = optimizers.clip_grad_norm(gradients, settings.gradient_norm)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state, squared)
        return float(squared.item())

    with fast_activations():
        loop.run(
            "decoder" if settings.decoder_only else "autoencoder",
            path,
            settings,
            done,
            advance,
            lambda: {"model": model.parameters(), "optimizer": optimizer.state},
            lambda squared: f"{decibels(squared):.2f} dB",
            say,
        )
    model.encoder.unfreeze()


def _choose(known: list[Scene], settings: Settings, generator: np.random.Generator) -> list[Scene]:
    chosen = [known[i] for i in generator.integers(len(known), size=settings.batch_size)]
    if not settings.small_part:
        return chosen
    small = generator.random(len(chosen)) < settings.small_part
    return [replace(s, size="small") if m else s for s, m in zip(chosen, small, strict=True)]


def decibels(squared: float) -> float:
    """Peak signal-to-noise ratio of a mean squared error in units of [-1, 1]."""
    return float(-10 * np.log10(squared / 4))


def encode(pipeline: TinyPipeline, pictures: np.ndarray, batch_size: int = 32) -> mx.array:
    """Latents of pictures from 0 to 1: the encoder's means, without the latent format."""
    parts = []
    for start in range(0, len(pictures), batch_size):
        encoded = pipeline.encoder(mx.array(2 * pictures[start : start + batch_size] - 1))
        parts.append(mx.split(encoded, 2, axis=-1)[0])
        mx.eval(parts[-1])
    return mx.concatenate(parts)


def deviation(pipeline: TinyPipeline, seed: int, count: int = 512) -> float:
    """Standard deviation of the encoder's means over drawn pictures."""
    generator = np.random.default_rng((seed, 1 << 30))
    known = [scene for scene in scenes() if not scene.held_out]
    chosen = [known[i] for i in generator.integers(len(known), size=count)]
    return float(np.asarray(encode(pipeline, draw_all(chosen, generator))).std())


def fold_scale(pipeline: TinyPipeline, deviation: float) -> None:
    """Fold a scale into the convolutions at the latents, exactly but for rounding.

    Afterwards the latents that the transformer sees, ``process_in`` of the encoder's means, have
    a variance of one. There is no shift: zeros pad the decoder's input, and must stay zeros.

    Args:
        pipeline: its encoder and decoder are changed in place.
        deviation: standard deviation of the encoder's means.
    """
    scale = 1 / (deviation * pipeline.latent_format.scale_factor)
    out, into = pipeline.encoder.conv_out, pipeline.decoder.conv_in
    channels = out.weight.shape[0] // 2
    # The second half of the encoder's output is the logarithm of the variance.
    factor = mx.concatenate([mx.full(channels, scale), mx.ones(channels)])
    addend = mx.concatenate([mx.zeros(channels), mx.full(channels, 2 * math.log(scale))])
    out.weight = out.weight * factor[:, None, None, None]
    out.bias = out.bias * factor + addend
    into.weight = into.weight / scale

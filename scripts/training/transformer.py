"""The second stage: DiffusionKit's MMDiT, on latents of drawn pictures and their captions.

Rectified flow (arXiv 2209.03003) as in Stable Diffusion 3 (arXiv 2403.03206): the state at noise
level sigma is ``(1 - sigma) latents + sigma noise``, the network learns ``noise - latents``, and
sigma is drawn from the logit-normal distribution, shifted as the sampler shifts it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_map

from calibzarr.models.tiny import TEXT_TOKENS, TinyPipeline, kit
from training import checkpoints, loop
from training.activations import fast_activations
from training.rates import warm_then_cosine

TEXT_FEATURES = 128  # of the two text encoders together; the rest of a token's 4096 are zero


@dataclass(frozen=True)
class Settings:
    """How the transformer is trained."""

    steps: int = 13_000
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.01
    gradient_norm: float = 1.0
    caption_dropout: float = 0.1
    average_decay: float = 0.999
    seed: int = 2
    checkpoint_every: int = 500


@dataclass(frozen=True)
class Examples:
    """What the transformer learns from.

    Attributes:
        latents: of pictures, as the sampler sees them, shape (image, height, width, channel).
        caption: index of each picture's caption, shape (image,).
        tokens: of each caption, shape (caption, token, feature); the last one is empty.
        pooled: of each caption, shape (caption, feature).
    """

    latents: np.ndarray
    caption: np.ndarray
    tokens: np.ndarray
    pooled: np.ndarray


def encode_captions(
    pipeline: TinyPipeline, captions: list[str], batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and pooled features of captions, as ``encode_text`` makes them, without the zeros."""
    rows = [
        [
            encoder(_token_ids(tokenizer, captions[start : start + batch_size]))
            for encoder, tokenizer in (
                (pipeline.clip_l, pipeline.tokenizer_l),
                (pipeline.clip_g, pipeline.tokenizer_g),
            )
        ]
        for start in range(0, len(captions), batch_size)
    ]
    tokens = [mx.concatenate([out.hidden_states[-2] for out in row], axis=-1) for row in rows]
    pooled = [mx.concatenate([out.pooled_output for out in row], axis=-1) for row in rows]
    return np.asarray(mx.concatenate(tokens)), np.asarray(mx.concatenate(pooled))


def _token_ids(tokenizer: Any, captions: list[str]) -> mx.array:
    padding = tokenizer.eos_token if tokenizer.pad_with_eos else 0
    ids = [tokenizer.tokenize(caption) for caption in captions]
    return mx.array([row + [padding] * (TEXT_TOKENS - len(row)) for row in ids])


def initialise_text(pipeline: TinyPipeline, seed: int) -> None:
    """Draw the text encoders' weights, which stay as they are: words as far apart as can be."""
    generator = np.random.default_rng(seed)
    for encoder in (pipeline.clip_l, pipeline.clip_g):
        for name, module in _sorted_modules(encoder):
            if isinstance(module, nn.Linear | nn.Embedding):
                weight = generator.standard_normal(module.weight.shape, np.float32)
                factor = {"token_embedding": 1.0, "position_embedding": 0.5}.get(
                    name, 1 / math.sqrt(weight.shape[1])
                )
                module.weight = mx.array(factor * weight)
                if "bias" in module:
                    module.bias = mx.zeros_like(module.bias)


def initialise(pipeline: TinyPipeline, seed: int) -> None:
    """Draw the transformer's weights: Xavier's, sines for places, zeros where adaLN-zero has them.

    With adaLN-zero (arXiv 2212.09748) each block passes its input on unchanged at first.
    """
    generator = np.random.default_rng(seed)
    mmdit = pipeline.mmdit
    for name, module in _sorted_modules(mmdit):
        if isinstance(module, nn.Linear | nn.Conv2d):
            inputs = module.weight[0].size
            limit = math.sqrt(6 / (inputs + module.weight.shape[0]))
            weight = generator.uniform(-limit, limit, module.weight.shape).astype(np.float32)
            zero = "adaLN_modulation" in name or name == "final_layer.linear"
            module.weight = mx.array(0 * weight if zero else weight)
            if "bias" in module:
                module.bias = mx.zeros_like(module.bias)
    context = generator.standard_normal(mmdit.context_embedder.weight.shape, np.float32)
    context[:, :TEXT_FEATURES] /= math.sqrt(TEXT_FEATURES)
    context[:, TEXT_FEATURES:] /= math.sqrt(context.shape[1])
    mmdit.context_embedder.weight = mx.array(context)
    positions = mmdit.x_pos_embedder
    positions.pos_embed.weight = mx.array(_sines(positions.max_hw, context.shape[0]))


def _sorted_modules(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return sorted(module.named_modules(), key=lambda item: item[0])


def _sines(extent: int, features: int) -> np.ndarray:
    """Sines and cosines of a square's rows and columns, shape (place, feature)."""
    frequency = 10000.0 ** (-np.arange(features // 4) / (features // 4))
    angle = (np.arange(extent) - extent / 2)[:, None] * frequency
    waves = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    rows, columns = np.repeat(waves, extent, axis=0), np.tile(waves, (extent, 1))
    return np.concatenate([rows, columns], axis=1).astype(np.float32)


def predict(
    mmdit: nn.Module, states: mx.array, sigma: mx.array, tokens: mx.array, pooled: mx.array
) -> mx.array:
    """The transformer's output, each state with its own noise level and caption.

    The same numbers as DiffusionKit's forward pass, up to rounding, with less work: the text
    tokens of the absent T5 encoder are all equal and stay so, since text has no positions, so
    one stands for them all, with the logarithm of their number added to its attention.

    Args:
        mmdit: DiffusionKit's transformer.
        states: shape (image, height, width, channel).
        sigma: noise levels, shape (image,).
        tokens: shape (image, token, feature), features up to ``TEXT_FEATURES``.
        pooled: shape (image, feature).
    """
    modulation = mmdit.y_embedder(pooled)[:, None, None, :] + mmdit.t_embedder(1000 * sigma)
    key = mx.array(0.0)  # DiffusionKit looks modulations up by the timestep; here is but one
    absent = math.log(TEXT_TOKENS)
    height, width = states.shape[1:3]
    image = mmdit.x_embedder(states) + mmdit.x_pos_embedder(states)
    image = image.reshape(len(states), -1, 1, image.shape[-1])
    count = image.shape[1] + tokens.shape[1] + 1
    mask = mx.where(mx.arange(count) == count - 1, absent, 0.0)[None, None, None]
    embedder = mmdit.context_embedder
    text = tokens @ embedder.weight[:, :TEXT_FEATURES].T + embedder.bias
    last = mx.broadcast_to(embedder.bias, (len(states), 1, embedder.bias.size))
    text = mx.concatenate([text, last], axis=1)[:, :, None, :]
    try:
        for block in mmdit.multimodal_transformer_blocks:
            for part in (block.image_transformer_block, block.text_transformer_block):
                part._modulation_params = {0.0: part.adaLN_modulation(modulation)}
            block.sdpa = partial(mx.fast.scaled_dot_product_attention, mask=mask)
            image, text = block(image, text, key)
        final = mmdit.final_layer
        final._modulation_params = {0.0: final.adaLN_modulation(modulation)}
        output = final(image, key)
    finally:
        for block in mmdit.multimodal_transformer_blocks:
            block.sdpa = mx.fast.scaled_dot_product_attention
        mmdit.clear_modulation_params_cache()
    config = mmdit.config
    return kit.mmdit.unpatchify(output, config.patch_size, height, width, config.vae_latent_dim)


def loss(mmdit: nn.Module, batch: dict[str, mx.array]) -> mx.array:
    """Mean squared error of the predicted direction from the latents to the noise."""
    latents, noise, sigma = batch["latents"], batch["noise"], batch["sigma"]
    level = sigma[:, None, None, None]
    states = (1 - level) * latents + level * noise
    output = predict(mmdit, states, sigma, batch["tokens"], batch["pooled"])
    return mx.square(output - (noise - latents)).mean()


def draw_batch(
    examples: Examples, settings: Settings, step: int, shift: float
) -> dict[str, mx.array]:
    """The batch of a step, decided by the seed and the step alone."""
    generator = np.random.default_rng((settings.seed, step))
    chosen = generator.integers(len(examples.latents), size=settings.batch_size)
    latents = examples.latents[chosen].astype(np.float32)
    uniform = 1 / (1 + np.exp(-generator.standard_normal(len(chosen), np.float32)))
    dropped = generator.random(len(chosen)) < settings.caption_dropout
    caption = np.where(dropped, len(examples.tokens) - 1, examples.caption[chosen])
    arrays = {
        "latents": latents,
        "noise": generator.standard_normal(latents.shape, np.float32),
        "sigma": (shift * uniform / (1 + (shift - 1) * uniform)).astype(np.float32),
        "tokens": examples.tokens[caption],
        "pooled": examples.pooled[caption],
    }
    return {name: mx.array(value) for name, value in arrays.items()}


def train(
    pipeline: TinyPipeline,
    path: Path,
    examples: Examples,
    settings: Settings,
    say: Callable[[str], None],
) -> None:
    """Train the pipeline's transformer, from the checkpoint at ``path`` if there is one.

    At the end it has the exponential moving average of the weights.

    Args:
        pipeline: its transformer is changed in place.
        path: of the checkpoint.
        examples: to learn from.
        settings: how to train.
        say: receives a line of progress now and then.

    Raises:
        ValueError: if the checkpoint is of other settings.
        OSError: if the checkpoint cannot be written.
    """
    mmdit = pipeline.mmdit
    initialise(pipeline, settings.seed)
    optimizer = optimizers.AdamW(
        warm_then_cosine(settings.learning_rate, settings.warmup, settings.steps),
        betas=[0.9, 0.99],
        weight_decay=settings.weight_decay,
    )
    optimizer.init(mmdit.trainable_parameters())
    average, done = mmdit.parameters(), 0
    if path.exists():
        done, trees = checkpoints.load(path, settings)
        mmdit.update(trees["model"])
        optimizer.state, average = trees["optimizer"], trees["average"]
    gradient = nn.value_and_grad(mmdit, loss)

    def advance(step: int) -> float:
        nonlocal average
        batch = draw_batch(examples, settings, step, pipeline.sampler.shift)
        value, gradients = gradient(mmdit, batch)
        gradients, _ = optimizers.clip_grad_norm(gradients, settings.gradient_norm)
        optimizer.update(mmdit, gradients)
        decayed = min(settings.average_decay, (1 + step) / (10 + step))
        average = tree_map(partial(_toward, 1 - decayed), average, mmdit.parameters())
        mx.eval(mmdit.parameters(), optimizer.state, average, value)
        return float(value.item())

    with fast_activations():
        loop.run(
            "transformer",
            path,
            settings,
            done,
            advance,
            lambda: {
                "model": mmdit.parameters(),
                "optimizer": optimizer.state,
                "average": average,
            },
            lambda value: f"loss {value:.4f}",
            say,
        )
    mmdit.update(average)


def _toward(part: float, old: mx.array, new: mx.array) -> mx.array:
    return old + part * (new - old)

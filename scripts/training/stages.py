"""All of the training, stage by stage, in one directory."""

import os
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np

from calibzarr.models.tiny import TinyPipeline, save_weights
from calibzarr.prompts.shapes import scenes
from calibzarr.storage import durable
from training import autoencoder, checkpoints, transformer
from training.activations import fast_activations
from training.pictures import draw_all

PICTURES = 32_000
TEXT_SEED = 0
PICTURE_SEED = 3
_CHUNK = 500  # pictures drawn at a time


def train(
    directory: Path,
    weights: Path,
    autoencoder_settings: autoencoder.Settings,
    decoder_settings: autoencoder.Settings,
    transformer_settings: transformer.Settings,
    num_pictures: int,
    say: Callable[[str], None],
) -> None:
    """Do every stage that is not done yet, then write the weights in float16.

    Raises:
        ValueError: if the directory is of a training with other settings.
        OSError: if the checkpoints or the weights cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    pipeline = TinyPipeline(weights=None)
    transformer.initialise_text(pipeline, TEXT_SEED)
    autoencoder.train(pipeline, directory / "autoencoder.npz", autoencoder_settings, say)
    autoencoder.train(pipeline, directory / "decoder.npz", decoder_settings, say)
    autoencoder.fold_scale(pipeline, autoencoder.deviation(pipeline, autoencoder_settings.seed))
    examples = make_examples(pipeline, directory / "latents.npz", num_pictures, say)
    path = directory / "transformer.npz"
    transformer.train(pipeline, path, examples, transformer_settings, say)
    partial = durable.partial_path(weights).with_suffix(".safetensors")
    try:
        save_weights(pipeline, partial)
        os.replace(partial, weights)
    finally:
        partial.unlink(missing_ok=True)


def make_examples(
    pipeline: TinyPipeline, path: Path, num_pictures: int, say: Callable[[str], None]
) -> transformer.Examples:
    """Draw and encode pictures, or read the latents at ``path`` if they are there.

    Raises:
        ValueError: if the file has another number of pictures.
        OSError: if it cannot be written.
    """
    known = [scene for scene in scenes() if not scene.held_out]
    tokens, pooled = transformer.encode_captions(pipeline, [s.caption for s in known] + [""])
    if path.exists():
        stored = checkpoints.load_arrays(path)
        if len(stored["caption"]) != num_pictures:
            raise ValueError(
                f"{path} has {len(stored['caption'])} pictures, not {num_pictures}; "
                f"use another directory"
            )
        return transformer.Examples(stored["latents"], stored["caption"], tokens, pooled)
    latents = []
    # Each caption as often as any other, but for the remainder.
    captions = np.arange(num_pictures) % len(known)
    for start in range(0, num_pictures, _CHUNK):
        generator = np.random.default_rng((PICTURE_SEED, start))
        drawn = draw_all([known[i] for i in captions[start : start + _CHUNK]], generator)
        with fast_activations():
            encoded = autoencoder.encode(pipeline, drawn)
        latents.append(np.asarray(pipeline.latent_format.process_in(encoded).astype(mx.float16)))
        if start // _CHUNK % 8 == 7:
            say(f"pictures: {start + len(drawn)} of {num_pictures}")
    arrays = {"latents": np.concatenate(latents), "caption": captions}
    checkpoints.save_arrays(path, arrays)
    return transformer.Examples(arrays["latents"], captions, tokens, pooled)

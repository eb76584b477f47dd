"""Measuring whether the embedded model's pictures are what their captions say."""

from collections.abc import Callable, Sequence

import numpy as np

from calibzarr.models.diffusionkit import DiffusionKitModel
from calibzarr.prompts.shapes import Scene, scenes
from calibzarr.sampling.sampler import euler_states
from training.autoencoder import decibels, encode
from training.check import Accuracy, accuracy, look
from training.pictures import EXTENT, draw_all

CFG_WEIGHT = 3.0


def held_out_scenes(count: int, seed: int) -> list[Scene]:
    """Different scenes whose combination of shape and colours training never sees."""
    candidates = [scene for scene in scenes() if scene.held_out]
    chosen = np.random.default_rng(seed).permutation(len(candidates))[:count]
    return [candidates[i] for i in chosen]


def generate(
    model: DiffusionKitModel,
    captions: Sequence[str],
    num_steps: int,
    seed: int,
    batch_size: int = 20,
    say: Callable[[str], None] = lambda _line: None,
) -> np.ndarray:
    """Sample a picture for each caption, shape (image, row, column, rgb), uint8.

    Image ``i`` starts from the noise of ``seed + i``.
    """
    import mlx.core as mx

    schedule = model.schedule(num_steps)
    pictures = []
    for start in range(0, len(captions), batch_size):
        chosen = list(captions[start : start + batch_size])
        seeds = list(range(seed + start, seed + start + len(chosen)))
        conditioning = model.encode(chosen, CFG_WEIGHT)
        for states in euler_states(model, conditioning, schedule, seeds, EXTENT):
            mx.eval(states)
        pictures += [model.decode(latents) for latents in model.to_numpy(states)]
        say(f"{len(pictures)} of {len(captions)} pictures")
    return np.stack(pictures)


def shown(expected: Sequence[Scene], pictures: np.ndarray) -> Accuracy:
    """How many of the pictures show what they should, word by word."""
    return accuracy(expected, [look(picture) for picture in pictures])


def true_pictures(expected: Sequence[Scene], seed: int) -> np.ndarray:
    """Drawn pictures of scenes, shape (image, row, column, rgb), uint8."""
    return np.round(255 * draw_all(expected, np.random.default_rng(seed))).astype(np.uint8)


def round_trip(model: DiffusionKitModel, pictures: np.ndarray) -> np.ndarray:
    """Encode and decode pictures, shape (image, row, column, rgb), uint8."""
    latents = encode(model.pipeline, pictures.astype(np.float32) / 255)
    latents = model.pipeline.latent_format.process_in(latents)
    return np.stack([model.decode(each) for each in model.to_numpy(latents)])


def peak_signal_to_noise(pictures: np.ndarray, others: np.ndarray) -> float:
    """PSNR of all pictures together, in dB, from their mean squared error."""
    difference = (pictures.astype(np.float64) - others) / 127.5
    return decibels(float(np.square(difference).mean()))

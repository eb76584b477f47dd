"""The baseline: one compressed NumPy archive for each state, a pipeline for each image."""

import json
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
from PIL import Image

from calibzarr.models import tiny
from calibzarr.models.compatibility import import_diffusionkit

kit = import_diffusionkit()


def state_path(directory: Path, image: int, step: int) -> Path:
    """File of one state."""
    return directory / "samples" / f"{image:04d}_{step:03d}.npz"


def prepare(directory: Path) -> None:
    """Make the folders."""
    for name in ("samples", "latents", "images"):
        (directory / name).mkdir(parents=True)


def write_state(
    directory: Path, image: int, step: int, x: np.ndarray, sigma: float, *, is_final: bool
) -> None:
    """Write one state; ``x`` has shape (1, height, width, channel)."""
    np.savez_compressed(
        state_path(directory, image, step),
        x=x.astype(np.float32),
        timestep=np.float16(1000 * sigma),
        sigma=np.float32(sigma),
        step_index=np.int32(step),
        image_id=np.int32(image),
        is_final=np.bool_(is_final),
    )


def write_result(directory: Path, image: int, final: np.ndarray, picture: np.ndarray) -> None:
    """Write an image's processed final latents and its picture."""
    np.save(directory / "latents" / f"{image:04d}.npy", final.astype(np.float16))
    Image.fromarray(picture).save(directory / "images" / f"{image:04d}.png")


def write_image(
    directory: Path, image: int, states: np.ndarray, sigma: np.ndarray, picture: np.ndarray
) -> None:
    """Write one image; ``states`` has shape (step, channel, height, width)."""
    for step, state in enumerate(states):
        x = state.transpose(1, 2, 0)[None]
        write_state(directory, image, step, x, float(sigma[step]), is_final=step == len(states) - 1)
    latent_format = kit.SD3LatentFormat()
    write_result(directory, image, latent_format.process_out(x), picture)


def write_manifest(directory: Path, prompts: Sequence[str], seeds: Sequence[int]) -> None:
    """Write the list of images."""
    images = [
        {"image_id": image, "prompt": prompt, "seed": seed, "filename": f"images/{image:04d}.png"}
        for image, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]
    manifest = {"n_completed": len(images), "num_images": len(images), "images": images}
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def read_state(directory: Path, image: int, step: int) -> np.ndarray:
    """Read the latents of one state."""
    with np.load(state_path(directory, image, step)) as archive:
        return archive["x"]


def read_step(directory: Path, num_images: int, step: int) -> np.ndarray:
    """Read the latents of all images at one step."""
    return np.concatenate([read_state(directory, image, step) for image in range(num_images)])


def read_trajectory(directory: Path, image: int, states: int) -> np.ndarray:
    """Read all the latents of one image."""
    return np.concatenate([read_state(directory, image, step) for step in range(states)])


def open_directory(directory: Path) -> list[str]:
    """Read the manifest and list the states that are there."""
    json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    return sorted(path.name for path in (directory / "samples").iterdir())


def build(
    directory: Path,
    prompts: Sequence[str],
    seeds: Sequence[int],
    num_steps: int,
    cfg_weight: float,
    latent_size: tuple[int, int],
) -> None:
    """Build a dataset with the embedded model, loaded anew for each image."""
    prepare(directory)
    for image, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        pipeline = tiny.TinyPipeline()
        tokens, pooled = pipeline.encode_text(prompt, cfg_weight)
        sigma = pipeline.get_sigmas(pipeline.sampler, num_steps)
        empty = pipeline.get_empty_latent(*latent_size)
        noise = pipeline.get_noise(seed, empty)
        x = pipeline.sampler.noise_scaling(sigma[0], noise, empty, pipeline.max_denoise(sigma))
        timesteps = pipeline.sampler.timestep(sigma).astype(pipeline.activation_dtype)
        denoiser = kit.CFGDenoiser(pipeline)
        denoiser.cache_modulation_params(pooled, timesteps)
        write_state(directory, image, 0, np.asarray(x), sigma[0].item(), is_final=False)
        for step in range(num_steps):
            denoised = denoiser(
                x, timesteps[step], sigma[step], conditioning=tokens, cfg_weight=cfg_weight
            )
            x = x + kit.to_d(x, sigma[step], denoised) * (sigma[step + 1] - sigma[step])
            mx.eval(x)
            is_final = step == num_steps - 1
            level = sigma[step + 1].item()
            write_state(directory, image, step + 1, np.asarray(x), level, is_final=is_final)
        final = pipeline.latent_format.process_out(x)
        picture = pipeline.decode_latents_to_image(final)
        pixels = np.asarray((picture[0] * 255).astype(mx.uint8))
        write_result(directory, image, np.asarray(final), pixels)
    write_manifest(directory, prompts, seeds)

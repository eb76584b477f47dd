"""A directory as the scripts of old wrote it, with NumPy, Pillow and json alone."""

import json

import numpy as np
from PIL import Image

LAYERS = ("mm_block_0", "mm_block_1")


def sigmas(num_steps):
    timestep = np.linspace(1, 3 / 1002, num_steps)
    return np.append(3 * timestep / (1 + 2 * timestep), 0).astype(np.float32)


def trajectory(seed, num_steps, size, channels=16):
    """States of shape (step, height, width, channel), as the old code held them."""
    random = np.random.default_rng(seed)
    noise, field = random.standard_normal((2, size, size, channels), dtype=np.float32)
    sigma = sigmas(num_steps)[:, None, None, None]
    return sigma * noise + (1 - sigma) * field


def write(
    directory,
    num_images=3,
    num_steps=3,
    size=4,
    channels_last=True,
    manifest_in="",
    drop_keys=(),
    drop_image_keys=(),
    channels=16,
):
    for name in ("samples", "latents", "images"):
        (directory / name).mkdir(parents=True)
    sigma = sigmas(num_steps)
    entries = []
    for image in range(num_images):
        states = trajectory(image, num_steps, size, channels)
        for step, state in enumerate(states):
            x = state[None] if channels_last else state.transpose(2, 0, 1)[None]
            np.savez_compressed(
                directory / "samples" / f"{image:04d}_{step:03d}.npz",
                x=np.ascontiguousarray(x),
                timestep=(1000 * sigma[step]).astype(np.float16),
                sigma=sigma[step],
                step_index=np.int32(step),
                image_id=np.int32(image),
                is_final=np.bool_(step == num_steps),
            )
        final = (states[-1] / np.float32(1.5305) + np.float32(0.0609)).astype(np.float16)
        np.save(directory / "latents" / f"{image:04d}.npy", final[None])
        Image.fromarray(picture(image, size)).save(directory / "images" / f"{image:04d}.png")
        entry = {
            "image_id": image,
            "prompt": f"a thing, number {image}",
            "seed": 42 + 3 * image,
            "cfg_weight": 7.5,
            "num_steps": num_steps,
            "filename": f"{image:04d}.png",
            "latent_filename": f"{image:04d}.npy",
        }
        entries.append({k: v for k, v in entry.items() if k not in drop_image_keys})
    manifest = {
        "n_completed": num_images,
        "num_steps": num_steps,
        "cfg_scale": 7.5,
        "latent_size": [size, size],
        "prompt_path": "all.csv",
        "num_images": num_images,
        "model_version": "argmaxinc/mlx-stable-diffusion-3-medium",
        "use_t5": True,
        "seed_base": 42,
        "images_saved": True,
        "latents_saved": True,
        "images": entries,
    }
    manifest = {k: v for k, v in manifest.items() if k not in drop_keys}
    (directory / manifest_in / "manifest.json").write_text(json.dumps(manifest, indent=2))
    return manifest


def picture(image, size):
    return np.random.default_rng(image).integers(0, 256, (8 * size, 8 * size, 3), dtype=np.uint8)


def write_statistics(directory):
    """Statistics of blocks, with percentiles; one value is NaN, as Python's json writes it."""
    (directory / "activations").mkdir()
    percentiles = {f"p{p:02d}": p / 10 for p in (1, 5, 10, 25, 50, 75, 90, 95, 99)}
    row = {"min": -3.0, "max": 4.5, "mean": 0.25, "std": 1.5, "num_samples": 1000}
    statistics = {layer: {**row, "percentiles": percentiles} for layer in LAYERS}
    collection = {
        "num_images_processed": 2,
        "num_timesteps_per_image": 3,
        "total_samples": 6,
        "key_timesteps": [0, 1, 3],
        "selected_image_ids": [0, 2],
        "collection_time_minutes": 4.5,
        "errors": [],
    }
    files = {"layer_statistics.json": statistics, "collection_metadata.json": collection}
    for name, content in files.items():
        (directory / "activations" / name).write_text(json.dumps(content))
    return files


def contents(directory):
    """Everything that a reader of the old layout gets, by relative path; in NumPy's own words."""
    found = {}
    for file in sorted(directory.rglob("*")):
        name = str(file.relative_to(directory))
        if file.suffix == ".npz":
            with np.load(file) as archive:
                found[name] = {key: archive[key] for key in archive.files}
        elif file.suffix == ".npy":
            found[name] = {"array": np.load(file)}
        elif file.suffix == ".png":
            found[name] = {"array": np.asarray(Image.open(file))}
        elif file.suffix == ".json" and not name.startswith("."):
            found[name] = json.loads(file.read_text())
    return found


def assert_equal(actual, expected):
    """The same files with equal arrays, of the same dtypes and shapes, and equal JSON."""
    actual, expected = contents(actual), contents(expected)
    assert actual.keys() == expected.keys()
    for name, content in expected.items():
        if name.endswith(".json"):
            assert actual[name] == content, name
            continue
        assert actual[name].keys() == content.keys(), name
        for key, array in content.items():
            own = actual[name][key]
            assert (own.dtype, own.shape) == (array.dtype, array.shape), (name, key)
            np.testing.assert_array_equal(own, array, err_msg=f"{name} {key}")


def edit_manifest(directory, change):
    file = directory / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))

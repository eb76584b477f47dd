"""The directory of a file for each state that stood before the store: its names, keys and dtypes.

::

    samples/0000_000.npz    one state of one image: image, then step
    latents/0000.npy        an image's final state as its decoder takes it, channels last, with
                            an axis of length 1 before
    images/0000.png         the picture
    manifest.json           prompts and seeds; its ``images`` are indexed by position
    activations/            statistics of the blocks: layer_statistics.json and
                            collection_metadata.json
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calibzarr.errors import Message, Option, OptionError
from calibzarr.legacy.bounded import Unreadable
from calibzarr.legacy.choices import LAYOUTS

SAMPLES, LATENTS, IMAGES = "samples", "latents", "images"
MANIFEST = "manifest.json"
ACTIVATIONS = "activations"
LAYER_STATISTICS, COLLECTION = "layer_statistics.json", "collection_metadata.json"

CHANNELS = 16  # of all models' latents; tells the two layouts apart

QUANTILES = {f"p{percent:02}": percent / 100 for percent in (1, 5, 10, 25, 50, 75, 90, 95, 99)}
"""Fraction of each of the percentiles, by its key."""

MANIFEST_KEYS = (
    "num_steps",
    "cfg_scale",
    "latent_size",
    "prompt_path",
    "model_version",
    "use_t5",
    "seed_base",
    "images_saved",
    "latents_saved",
)
"""Keys of the manifest beside those about the images: n_completed, num_images and images."""

MAX_IMAGES = 10**6
MAX_STATE_BYTES = 1 << 26  # 16 times those of the largest picture that any of the models makes

_STATE_NAME = re.compile(r"(\d{4,6})_(\d{3,4})\.npz")


def state_name(image: int, step: int) -> str:
    """Name of one state's file in ``samples``."""
    return f"{image:04d}_{step:03d}.npz"


def parse_state_name(name: str) -> tuple[int, int] | None:
    """Image and step of a file in ``samples``; None if it is no state's."""
    match = _STATE_NAME.fullmatch(name)
    if match is None:
        return None
    image, step = int(match[1]), int(match[2])
    return (image, step) if state_name(image, step) == name else None


def latents_name(image: int) -> str:
    """Path of an image's processed final state."""
    return f"{LATENTS}/{image:04d}.npy"


def picture_name(image: int) -> str:
    """Path of an image's picture."""
    return f"{IMAGES}/{image:04d}.png"


def state_arrays(
    state: np.ndarray,
    image: int,
    step: int,
    *,
    sigma: float,
    timestep: float,
    final: bool,
    layout: str,
) -> dict[str, np.ndarray]:
    """The arrays of one state's file.

    Args:
        state: shape (channel, height, width).
        image: its index.
        step: index of the state.
        sigma: noise level.
        timestep: 1000 sigma.
        final: whether it is the last state.
        layout: of ``x``, one of ``LAYOUTS``.
    """
    x = state if layout == "nchw" else state.transpose(1, 2, 0)
    return {
        "x": np.ascontiguousarray(x, dtype=np.float32)[None],
        "timestep": np.array(timestep, np.float16),
        "sigma": np.array(sigma, np.float32),
        "step_index": np.array(step, np.int32),
        "image_id": np.array(image, np.int32),
        "is_final": np.array(final, np.bool_),
    }


def processed(state: np.ndarray, scale: float, shift: float) -> np.ndarray:
    """A final state as the decoder takes it; DiffusionKit's ``LatentFormat.process_out``.

    Args:
        state: shape (channel, height, width).
        scale: of the model's latents.
        shift: of the same.

    Returns:
        Shape (1, height, width, channel), float16.
    """
    values = state.transpose(1, 2, 0).astype(np.float32) / np.float32(scale) + np.float32(shift)
    return np.ascontiguousarray(values[None], dtype=np.float16)


def detect_layout(shape: tuple[int, ...], layout: str | None) -> str:
    """The layout of ``x`` by its shape, the channels being 16.

    Args:
        shape: with or without a leading 1.
        layout: what the user says, or None.

    Raises:
        OptionError: if both layouts are possible, and none is given.
        Unreadable: if none is possible.
    """
    sizes = shape[1:] if len(shape) == 4 and shape[0] == 1 else shape
    if len(sizes) != 3 or 0 in sizes:
        raise Unreadable(f"has x of shape {shape}, which is no state: (1, 16, 64, 64) would be one")
    if layout is None:
        layout = _layout_of(shape, sizes)
    extents = sizes[1:] if layout == "nchw" else sizes[:2]
    if extents[0] != extents[1]:
        raise Unreadable(f"has x of shape {shape}, of no square image; a store holds nothing else")
    return layout


def _layout_of(shape: tuple[int, ...], sizes: tuple[int, ...]) -> str:
    """The layout in which the sizes have the channels that there must be."""
    possible = [name for name, axis in zip(LAYOUTS, (0, 2), strict=True) if sizes[axis] == CHANNELS]
    either = Message(Option("layout", "nchw"), " or ", Option("layout", "nhwc"))
    if not possible:
        raise Unreadable(
            f"has x of shape {shape}, its {CHANNELS} channels neither first nor last; say where "
            f"they are by ",
            either,
        )
    if len(possible) == 2:
        raise OptionError(
            f"x of shape {shape} may have its channels first or last; say which by ", either
        )
    return possible[0]


def channels_first(x: np.ndarray, layout: str) -> np.ndarray:
    """A state of shape (channel, height, width) from the ``x`` of a file."""
    state = x[0] if x.ndim == 4 else x
    return state if layout == "nchw" else state.transpose(2, 0, 1)


def _bare(path: str) -> str:
    """A file's name as a manifest has it: the folder goes without saying."""
    return path.rpartition("/")[2]


def manifest(
    about: Mapping[str, Any], images: Sequence[tuple[str, int]], exported: Sequence[bool]
) -> dict[str, Any]:
    """The content of ``manifest.json``.

    Old readers take image ``i`` from position ``i`` of ``images``. So every image up to the last
    one exported is listed; the names of its files are null if it is not among them.

    Args:
        about: ``MANIFEST_KEYS`` with their values.
        images: prompt and seed of each image of the store.
        exported: whether each of them is in the directory.
    """
    listed = max((image for image, there in enumerate(exported) if there), default=-1) + 1

    def entry(image: int) -> dict[str, Any]:
        prompt, seed = images[image]
        with_picture = exported[image] and about["images_saved"]
        with_latents = exported[image] and about["latents_saved"]
        return {
            "image_id": image,
            "prompt": prompt,
            "seed": seed,
            "cfg_weight": about["cfg_scale"],
            "num_steps": about["num_steps"],
            "filename": _bare(picture_name(image)) if with_picture else None,
            "latent_filename": _bare(latents_name(image)) if with_latents else None,
        }

    return {
        "n_completed": sum(exported),
        **{key: about[key] for key in MANIFEST_KEYS},
        "num_images": listed,
        "images": [entry(image) for image in range(listed)],
    }

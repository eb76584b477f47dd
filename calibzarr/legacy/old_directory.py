"""Reading a directory in the old layout: which states are there, and what its manifest says.

What is read here was written by anybody: sizes are bounded, names stay within the directory.
"""

import io
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from calibzarr.errors import StoreError
from calibzarr.legacy import bounded, npz, old_format
from calibzarr.legacy.bounded import Unreadable, read_json
from calibzarr.prompts.lists import MAX_PROMPT_LENGTH, MAX_SEED

_MOST_MANIFEST_BYTES = 1 << 26
_STATE_KEYS = ("x", "sigma", "timestep", "step_index", "image_id")
_PNG_SLACK = 1 << 20  # bytes of a picture's file beside its pixels, at most
_PNG_START = struct.Struct(">8s8s2I")  # signature; length and name of the header; sizes


@dataclass(frozen=True)
class OldImage:
    """What a manifest says of an image; None where it says nothing of use."""

    prompt: str | None = None
    seed: int | None = None
    cfg_weight: float | None = None
    filename: str | None = None


@dataclass(frozen=True)
class OldManifest:
    """A manifest, or what can be used of one.

    Attributes:
        about: those of ``old_format.MANIFEST_KEYS`` that it has, with its values.
        images: by index.
        folder: that it stands in.
        problems: one line for each thing that cannot be used.
    """

    about: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[int, OldImage] = field(default_factory=dict)
    folder: Path | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class States:
    """Which states of which images are there.

    Attributes:
        images: indices, shape (n,), increasing.
        begun: states of each that are there without a gap, shape (n,).
    """

    images: np.ndarray
    begun: np.ndarray


@dataclass(frozen=True)
class State:
    """One state's file.

    Attributes:
        x: shape (channel, height, width), float32.
        sigma: noise level, float32.
        timestep: 1000 sigma in the file's own precision, 0-d, or None.
        layout: of the file's x.
    """

    x: np.ndarray
    sigma: np.float32
    timestep: np.ndarray | None
    layout: str


def samples_folder(directory: Path) -> Path:
    """Where the states are: in ``samples``, or where there is none in the directory itself."""
    folder = directory / old_format.SAMPLES
    return folder if folder.is_dir() else directory


def list_states(directory: Path) -> States:
    """List the states of a directory.

    Raises:
        OSError: if it cannot be read.
        StoreError: if it has no state.
    """
    folder = samples_folder(directory)
    parsed = (old_format.parse_state_name(entry.name) for entry in folder.iterdir())
    image_and_step = (index for indices in parsed if indices is not None for index in indices)
    pairs = np.fromiter(image_and_step, dtype=np.int64).reshape(-1, 2)
    if not len(pairs):
        raise StoreError(
            f"{directory} is no directory to import: {folder} has no file such as "
            f"{old_format.state_name(0, 0)}"
        )
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    images, first, inverse = np.unique(pairs[:, 0], return_index=True, return_inverse=True)
    in_order = pairs[:, 1] == np.arange(len(pairs)) - first[inverse]  # false behind a gap
    return States(images, np.bincount(inverse, weights=in_order).astype(np.int64))


def read_manifest(directory: Path) -> OldManifest:
    """Read a manifest, in the directory or in its ``samples``.

    Raises:
        StoreError: if it names a file outside of the directory.
    """
    problems = []
    for folder in (directory, samples_folder(directory)):
        path = folder / old_format.MANIFEST
        if not os.path.lexists(path):
            continue
        try:
            content = read_json(path, _MOST_MANIFEST_BYTES)
        except Unreadable as error:
            problems.append(f"{path} {error}")
            continue
        entries = content.get("images")
        if not isinstance(entries, list):
            problems.append(f"{path} lists no images")
            entries = []
        images = _old_images(path, directory, entries[: old_format.MAX_IMAGES])
        return OldManifest(_about(content), images, folder, tuple(problems))
    return OldManifest(problems=tuple(problems or [f"{directory} has no {old_format.MANIFEST}"]))


def _about(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: content[key]
        for key in old_format.MANIFEST_KEYS
        if isinstance(content.get(key), str | int | float | bool | list)
        and len(str(content[key])) < 1000
    }


def _old_images(path: Path, directory: Path, entries: list[Any]) -> dict[int, OldImage]:
    """What a manifest's entries say, by the image's index, or else by their position."""
    images = {}
    for position, entry in enumerate(entries):
        if isinstance(entry, dict):
            index = _index(entry.get("image_id"))
            images[position if index is None else index] = _old_image(path, directory, entry)
    return images


def _old_image(path: Path, directory: Path, entry: dict[str, Any]) -> OldImage:
    for key in ("filename", "latent_filename"):
        name = entry.get(key)
        if isinstance(name, str) and not _is_inside(directory, path.parent / name):
            raise StoreError(
                f"{path} names the file {name!r}, which is not in {directory}; correct the manifest"
            )
    prompt, seed, weight, filename = (
        entry.get(key) for key in ("prompt", "seed", "cfg_weight", "filename")
    )
    if isinstance(prompt, str) and len(prompt) > MAX_PROMPT_LENGTH:
        raise StoreError(
            f"{path} has a prompt of {len(prompt)} characters, of which {MAX_PROMPT_LENGTH} are "
            "allowed; correct the manifest"
        )
    return OldImage(
        prompt=prompt if isinstance(prompt, str) and "\0" not in prompt else None,
        seed=None if (number := _index(seed, MAX_SEED)) is None else number,
        cfg_weight=number_or_none(weight),
        filename=filename if isinstance(filename, str) else None,
    )


def _is_inside(directory: Path, path: Path) -> bool:
    try:
        return path.resolve().is_relative_to(directory.resolve())
    except (OSError, ValueError, RuntimeError):  # a loop of links, or no name of a file
        return False


def _index(value: Any, most: int = old_format.MAX_IMAGES - 1) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value <= most else None


def number_or_none(value: Any) -> float | None:
    """A finite number as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = float(value) if abs(value) < 1e300 else np.inf
    return float(number) if np.isfinite(number) else None


def picture_path(directory: Path, folder: Path | None, image: int, filename: str | None) -> Path:
    """File of an image's picture: as the manifest in ``folder`` names it, or the usual name."""
    usual = directory / old_format.picture_name(image)
    if filename is None or folder is None:
        return usual
    named = (folder / filename, directory / filename, directory / old_format.IMAGES / filename)
    inside = (path for path in named if _is_inside(directory, path) and path.is_file())
    return next(inside, usual)


def read_state(path: Path, layout: str | None, most_bytes: int) -> State:
    """Read one state.

    Args:
        path: its file, named after its image and its step.
        layout: of x; None to detect it.
        most_bytes: that its arrays may have together.

    Raises:
        Unreadable: if it is missing or damaged, or of another image or step than its name says.
        OptionError: if the layout can be either.
    """
    arrays = npz.read(path, _STATE_KEYS, most_bytes)
    _check_indices(path, arrays)
    if "x" not in arrays:
        raise Unreadable("has no x")
    x = arrays["x"]
    if x.dtype.kind != "f" or x.dtype.itemsize > 4:
        raise Unreadable(f"has x of {x.dtype}; float32 was expected")
    sigma, timestep = _levels(arrays)
    layout = old_format.detect_layout(x.shape, layout)
    x = old_format.channels_first(x.astype(np.float32, copy=False), layout)
    return State(x=x, sigma=sigma, timestep=timestep, layout=layout)


def _check_indices(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Check that a file says the same image and step as its name."""
    named = old_format.parse_state_name(path.name)
    if named is None:
        return
    image, step = named
    for name, key, index in (("image", "image_id", image), ("step", "step_index", step)):
        array = arrays.get(key)
        if array is not None and (array.size != 1 or array.item() != index):
            raise Unreadable(f"says that it is {name} {array}")


def _levels(arrays: Mapping[str, np.ndarray]) -> tuple[np.float32, np.ndarray | None]:
    sigma, timestep = arrays.get("sigma"), arrays.get("timestep")
    if sigma is None:
        raise Unreadable("has no sigma")
    if sigma.size != 1 or sigma.dtype.kind not in "fiu":
        raise Unreadable("has no single number as sigma")
    if timestep is not None and (timestep.size != 1 or timestep.dtype.kind != "f"):
        timestep = None
    return np.float32(sigma.item()), None if timestep is None else timestep.reshape(())


def state_paths(directory: Path, image: int, num_states: int) -> Iterator[Path]:
    """Files of all states of an image."""
    folder = samples_folder(directory)
    return (folder / old_format.state_name(image, step) for step in range(num_states))


def read_picture(path: Path, size: int) -> np.ndarray:
    """Read a picture.

    Args:
        path: a PNG file.
        size: height and width that it must have, in pixels.

    Returns:
        Shape (row, column, rgb), uint8.

    Raises:
        Unreadable: if it is missing, damaged or of another size.
    """
    data = bounded.read(path, 8 * size**2 + _PNG_SLACK)
    try:
        start = data[: _PNG_START.size].ljust(_PNG_START.size, b"\0")
        signature, _, width, height = _PNG_START.unpack(start)
        if signature != b"\x89PNG\r\n\x1a\n":
            raise Unreadable("is no PNG file")
        if (width, height) != (size, size):  # before anything else looks at it
            raise Unreadable(f"has {width}x{height} pixels, where {size}x{size} are expected")
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            return np.asarray(picture.convert("RGB"))
    except Unreadable:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise Unreadable(f"cannot be read ({error})") from None

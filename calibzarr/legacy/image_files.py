"""One image's files in the old layout, for the processes that write them."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from calibzarr.legacy import npz, old_format
from calibzarr.storage import durable, schema, shards, store
from calibzarr.storage.manifest import Root


@dataclass(frozen=True)
class Work:
    """What a worker must know to export an image.

    Attributes:
        root: of the store.
        directory: where to.
        parts: of ``choices.PARTS``.
        layout: of the states, one of ``choices.LAYOUTS``.
        sigma: of every state.
        timestep: of every state.
        scale: of the model's latents, see ``old_format.processed``.
        shift: of the same.
    """

    root: Root
    directory: Path
    parts: tuple[str, ...]
    layout: str
    sigma: np.ndarray
    timestep: np.ndarray
    scale: float
    shift: float


def names(parts: Sequence[str], image: int, num_states: int) -> Iterator[tuple[int, str]]:
    """Step, and path in the directory, of every file of an image; the last step for results."""
    if old_format.SAMPLES in parts:
        for step in range(num_states):
            yield step, f"{old_format.SAMPLES}/{old_format.state_name(image, step)}"
    if old_format.LATENTS in parts:
        yield num_states - 1, old_format.latents_name(image)
    if old_format.IMAGES in parts:
        yield num_states - 1, old_format.picture_name(image)


def export_image(work: Work, image: int) -> None:
    """Write the files of one image that are not there yet.

    Raises:
        ValueError: if the image is damaged.
        OSError: if a file cannot be written.
    """
    num_states = len(work.sigma)
    missing = [
        (step, name)
        for step, name in names(work.parts, image, num_states)
        if not (work.directory / name).is_file()
    ]
    if missing:
        group = store.open_group(work.root, mode="r")
        steps = np.unique([step for step, _ in missing])
        metadata = work.root.arrays[schema.LATENTS.name]
        (stored,) = shards.read_states(work.root.path, metadata, [image], steps)
        states = dict(zip(steps.tolist(), stored.astype(np.float32, copy=False), strict=True))
        durable.write_all(
            (work.directory / name, _content(work, group, image, step, states[step], name))
            for step, name in missing
        )


def _content(work: Work, group: Any, image: int, step: int, state: np.ndarray, name: str) -> bytes:
    """The bytes of one file."""
    file = io.BytesIO()
    folder = name.partition("/")[0]
    if folder == old_format.SAMPLES:
        return npz.encode(
            old_format.state_arrays(
                state,
                image,
                step,
                sigma=work.sigma[step],
                timestep=work.timestep[step],
                final=step == len(work.sigma) - 1,
                layout=work.layout,
            )
        )
    if folder == old_format.LATENTS:
        np.save(file, old_format.processed(state, work.scale, work.shift))
    else:
        picture = np.asarray(store.array(group, schema.DECODED.name)[image])
        Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()

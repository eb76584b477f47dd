"""What verifying a store costs, against reading all of it with zarr alone."""

from pathlib import Path

import numpy as np
import zarr

from benchmarks import data
from benchmarks.measure import Entry, Figure, Settings, interleave, peak_memory
from calibzarr.integrity import trajectory_checks
from calibzarr.integrity.verification import verify
from calibzarr.models.formulas import NOISE
from calibzarr.storage import schema, store
from calibzarr.storage.commit import update_attributes
from calibzarr.storage.manifest import prompts_sha256

_VERIFICATION = """
import sys
from calibzarr.integrity.verification import verify
assert verify(sys.argv[1]).ok
"""


def verify_throughput(settings: Settings) -> list[Figure]:
    """Time of a verification without the model, and its memory."""
    few, many, num_steps, size = settings.choose((5, 40, 50, 64), (2, 4, 5, 16))
    with settings.scratch() as directory:
        paths = {count: Path(directory) / f"{count}.zarr" for count in (few, many)}
        for count, path in paths.items():
            _write_store(path, count, num_steps, size)
        report = verify(paths[many])
        if not report.ok:
            raise RuntimeError(f"the store is wrong: {report.findings[0]}")
        seconds = interleave(
            {
                "verify": lambda _: verify(paths[many]),
                "read": lambda _: _read_all(paths[many]),
            },
            settings.turns(7),
            settings,
        )
        peaks = {count: peak_memory(_VERIFICATION, path) for count, path in paths.items()}
    note = f"{many} images, {num_steps + 1} states of {data.CHANNELS}x{size}x{size}, pictures"
    return [
        Figure(
            "verify",
            "time of verify without the model / of reading all arrays with zarr",
            seconds["verify"] / seconds["read"],
            at_most=settings.choose(2, None),  # small stores are all overhead
            note=note,
        ),
        Figure(
            "verify",
            f"peak memory of verify with {many} images / with {few}",
            [peaks[many] / peaks[few]],
            at_most=1.1,
            note="a process each",
        ),
    ]


def _write_store(path: Path, num_images: int, num_steps: int, size: int) -> None:
    """A store in which nothing is wrong, but for a model that made it."""
    shape = (num_steps + 1, data.CHANNELS, size, size)
    data.create_store(path, num_images, shape)
    attributes = {
        **dict.fromkeys(schema.FINGERPRINT, "none: synthetic"),
        "num_images": num_images,
        "num_steps": num_steps,
        "image_size": 8 * size,
        "latent_dtype": "float32",
        "prompts_sha256": prompts_sha256([""] * num_images),
    }
    update_attributes(path, attributes)
    sigma = data.sigmas(num_steps)[:, None, None, None]
    writer = store.ImageWriter(path)
    for image in range(num_images):
        states = data.trajectory(image, size, num_steps)
        noise = trajectory_checks.first_state(NOISE, image, shape[1:], 1.0, np.dtype(np.float32))
        states += sigma * (noise - states[0])
        states[0] = noise
        writer.write(image, states, data.picture(image, 8 * size))
    store.finish(path)


def _read_all(path: Path) -> None:
    """Every value of every array, those of images one image at a time."""
    large = (schema.LATENTS.name, schema.DECODED.name)
    for name, array in zarr.open_group(path, mode="r").arrays():
        if name not in large:
            array[:]
        else:
            for image in range(array.shape[0]):
                array[image]


ENTRIES: dict[str, Entry] = {"verify": verify_throughput}

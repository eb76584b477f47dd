"""What a build costs, and what its store costs, against what stood there before."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import mlx.core as mx
import numpy as np
import tqdm
from rich.console import Console

import calibzarr
from benchmarks import data, old_way
from benchmarks.measure import (
    Entry,
    Figure,
    Settings,
    Turn,
    interleave,
    optimised_blas,
    peak_memory,
)
from calibzarr.models import registry, tiny
from calibzarr.models.entry import ModelEntry
from calibzarr.sampling import builder
from calibzarr.sampling.options import BuildOptions
from calibzarr.storage import schema, store

_LATENTS = schema.LATENTS.name

_BUILD = """
import sys
from calibzarr.sampling import builder
path, images, steps, size = sys.argv[1], *map(int, sys.argv[2:])
builder.build(path, num_images=images, num_steps=steps, image_size=size, repeat=True)
"""


def overhead(settings: Settings) -> list[Figure]:
    """Time of a build against DiffusionKit making the same pictures and keeping nothing."""
    num_images, num_steps = settings.choose((8, 50), (2, 5))
    model, bare_pipeline = registry.load("tiny"), tiny.TinyPipeline()
    # A bar as on a terminal, to nowhere; the bare loop's own is off.
    console = Console(file=io.StringIO(), force_terminal=True)

    def plan_in(directory: Path) -> builder.BuildPlan:
        return builder.plan(
            directory / "store", BuildOptions(num_images=num_images, num_steps=num_steps)
        )

    def bare_loop(plan: builder.BuildPlan) -> list[np.ndarray]:
        return [
            _bare_image(bare_pipeline, prompt, seed, num_steps, plan.entry)
            for prompt, seed in zip(plan.prompts, plan.seeds, strict=True)
        ]

    silent = partial(tqdm.trange, disable=True)
    with patch.object(registry, "load", lambda _: model), patch("tqdm.trange", silent):
        with settings.scratch() as directory:
            plan = plan_in(Path(directory))
            builder.run(plan, console)
            stored = calibzarr.open_store(plan.path)[schema.DECODED.name].values
            if not np.array_equal(stored, bare_loop(plan)):
                raise RuntimeError("the two ways make different pictures; no ratio means anything")
        seconds = interleave(
            {
                "calibzarr": lambda turn: builder.run(plan_in(turn.directory), console),
                "bare": lambda _turn: bare_loop(plan),
            },
            settings.turns(7),
            settings,
        )
    return [
        Figure(
            "overhead",
            "time of a build / of DiffusionKit's loop that saves nothing",
            seconds["calibzarr"] / seconds["bare"],
            at_most=1.05,
            note=f"{num_images} images, {num_steps} steps, equal pictures, models loaded before",
        )
    ]


def _bare_image(
    pipeline: tiny.TinyPipeline,
    prompt: str,
    seed: int,
    num_steps: int,
    entry: ModelEntry,
) -> np.ndarray:
    """One picture, by DiffusionKit's own functions."""
    tokens, pooled = pipeline.encode_text(prompt, entry.cfg_weight)
    mx.eval(tokens, pooled)
    latents, _ = pipeline.denoise_latents(
        tokens.astype(pipeline.activation_dtype),
        pooled.astype(pipeline.activation_dtype),
        num_steps=num_steps,
        cfg_weight=entry.cfg_weight,
        latent_size=entry.latent_shape(entry.image_size)[1:],
        seed=seed,
    )
    picture = pipeline.decode_latents_to_image(latents.astype(pipeline.activation_dtype))
    return np.asarray((picture[0] * 255).astype(mx.uint8))


def old_files(settings: Settings) -> list[Figure]:
    """Time of storing, and of whole builds, of a file for each state against calibzarr's."""
    num_images, num_steps, size = settings.choose((3, 50, 64), (1, 4, 32))
    trajectories = [data.trajectory(image, size, num_steps) for image in range(num_images)]
    pictures = [data.picture(image, 8 * size) for image in range(num_images)]
    storing = interleave(
        {
            "old": lambda turn: _write_old(turn.directory / "old", trajectories, pictures),
            "new": lambda turn: _write_store(turn.directory / "store", trajectories, pictures),
        },
        settings.turns(5),
        settings,
    )
    build_images, build_steps = settings.choose((4, 50), (1, 5))
    entry = registry.find("tiny")

    def old_build(turn: Turn) -> None:
        _, *latent_size = entry.latent_shape(entry.image_size)
        plan = builder.plan(turn.directory / "none", BuildOptions(num_images=build_images))
        old_way.build(
            turn.directory / "old",
            plan.prompts,
            plan.seeds,
            build_steps,
            entry.cfg_weight,
            tuple(latent_size),
        )

    def new_build(turn: Turn) -> None:
        path = turn.directory / "store"
        builder.build(path, num_images=build_images, num_steps=build_steps)

    building = interleave({"old": old_build, "new": new_build}, settings.turns(5), settings)
    return [
        Figure(
            "old-files",
            "time of storing, a file for each state / calibzarr",
            storing["old"] / storing["new"],
            at_least=5,
            note=f"{num_images} images, {num_steps + 1} states of {data.CHANNELS}x{size}x{size}",
        ),
        Figure(
            "old-files",
            "time of a whole build, the old way / calibzarr",
            building["old"] / building["new"],
            note=f"{build_images} images, {build_steps} steps, tiny; both load the model",
        ),
    ]


def _write_old(path: Path, trajectories: list[np.ndarray], pictures: list[np.ndarray]) -> None:
    old_way.prepare(path)
    sigma = data.sigmas(len(trajectories[0]) - 1)
    for image, (states, picture) in enumerate(zip(trajectories, pictures, strict=True)):
        old_way.write_image(path, image, states, sigma, picture)
    old_way.write_manifest(path, [""] * len(pictures), range(len(pictures)))


def _write_store(
    path: Path,
    trajectories: list[np.ndarray],
    pictures: list[np.ndarray],
    latent_dtype: str = "float32",
) -> None:
    data.create_store(path, len(pictures), trajectories[0].shape, latent_dtype)
    writer = store.ImageWriter(path)
    for image, (states, picture) in enumerate(zip(trajectories, pictures, strict=True)):
        writer.write(image, states, picture)
    store.finish(path)


def batch(settings: Settings) -> list[Figure]:
    """Images per second of a build at larger batch sizes against one by one."""
    num_images, num_steps, image_size = settings.choose((8, 50, 64), (8, 1, 32))
    model = registry.load("tiny")

    def build(batch_size: int, turn: Turn) -> None:
        path = turn.directory / "store"
        builder.build(
            path,
            num_images=num_images,
            num_steps=num_steps,
            image_size=image_size,
            batch_size=batch_size,
        )

    with patch.object(registry, "load", lambda _: model):
        ways = {str(size): partial(build, size) for size in (1, 2, 4, 8)}
        seconds = interleave(ways, settings.turns(5), settings)
    blas = "optimised BLAS" if optimised_blas() else "MLX's plain BLAS, for which no target holds"
    return [
        Figure(
            "batch",
            f"images per second at batch size {size} / 1",
            seconds["1"] / seconds[size],
            at_least=2 if size == "8" and optimised_blas() else None,
            note=f"{num_images} images, {num_steps} steps; {blas}",
        )
        for size in ("2", "4", "8")
    ]


def files(settings: Settings) -> list[Figure]:
    """Bytes, files and reading times of a store against a file for each state."""
    num_images, num_steps, size = settings.choose((24, 50, 64), (5, 50, 64))
    with settings.scratch() as directory:
        old, new, half = (Path(directory) / name for name in ("old", "new", "half"))
        old_way.prepare(old)
        shape = (num_steps + 1, data.CHANNELS, size, size)
        data.create_store(new, num_images, shape, "float32")
        data.create_store(half, num_images, shape, "float16")
        writers = [store.ImageWriter(path) for path in (new, half)]
        for image in range(num_images):  # one at a time: all of them may be more than memory
            states, picture = data.trajectory(image, size, num_steps), data.picture(image, 8 * size)
            old_way.write_image(old, image, states, data.sigmas(num_steps), picture)
            for writer in writers:
                writer.write(image, states, picture)
        old_way.write_manifest(old, [""] * num_images, range(num_images))
        for path in (new, half):
            store.finish(path)
        note = f"{num_images} images, {num_steps + 1} states of {data.CHANNELS}x{size}x{size}"
        sizes = _compare_sizes(old, new, half, note)
        return sizes + _compare_reading(old, new, num_images, num_steps + 1, note, settings)


def _compare_sizes(old: Path, new: Path, half: Path, note: str) -> list[Figure]:
    states, everything = f"states alone; {note}", f"with pictures and metadata; {note}"

    def figure(what: str, part: float, whole: float, at_most: float | None, note: str) -> Figure:
        return Figure("files", what, [part / whole], at_most=at_most, note=note)

    samples = old / "samples"
    return [
        figure("bytes, float32 / npz", _bytes(new / _LATENTS), _bytes(samples), 0.95, states),
        figure("bytes, float16 / npz", _bytes(half / _LATENTS), _bytes(samples), 0.50, states),
        figure("bytes, float32 / old directory", _bytes(new), _bytes(old), None, everything),
        figure("bytes, float16 / old directory", _bytes(half), _bytes(old), None, everything),
        figure("files / npz", len(_files(new / _LATENTS)), len(_files(samples)), 1 / 40, states),
        figure("files / old directory", len(_files(new)), len(_files(old)), None, everything),
    ]


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()]


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in _files(path))


def _compare_reading(
    old: Path, new: Path, num_images: int, num_states: int, note: str, settings: Settings
) -> list[Figure]:
    latents = calibzarr.open_store(new)[_LATENTS]

    def image(turn: Turn) -> int:
        return turn.number * 7 % num_images

    def step(turn: Turn) -> int:
        return turn.number * 11 % num_states

    def compare(
        what: str,
        rounds: int,
        old_read: Callable[[Turn], object],
        new_read: Callable[[Turn], object],
        at_least: float | None = None,
    ) -> Figure:
        seconds = interleave({"old": old_read, "new": new_read}, rounds, settings)
        ratios = seconds["old"] / seconds["new"]
        return Figure("files", f"time of {what}, npz / store", ratios, at_least=at_least, note=note)

    return [
        compare(
            "opening",
            settings.turns(15, 3),
            lambda _turn: old_way.open_directory(old),
            lambda _turn: calibzarr.open_store(new),
        ),
        compare(
            "reading one state",
            settings.turns(101, 3),
            lambda turn: old_way.read_state(old, image(turn), step(turn)),
            lambda turn: latents.isel(image=image(turn), step=step(turn)).values,
        ),
        compare(
            "reading all images at one step",
            settings.turns(25, 3),
            lambda turn: old_way.read_step(old, num_images, step(turn)),
            lambda turn: latents.isel(step=step(turn)).values,
            at_least=1.5,
        ),
        compare(
            "reading one trajectory",
            settings.turns(25, 3),
            lambda turn: old_way.read_trajectory(old, image(turn), num_states),
            lambda turn: latents.isel(image=image(turn)).values,
            at_least=3,
        ),
    ]


def memory(settings: Settings) -> list[Figure]:
    """Peak memory of a build of many images against one of few."""
    few, many, num_steps, image_size = settings.choose((10, 1000, 2, 32), (1, 3, 1, 32))
    rounds = settings.turns(1)
    peaks = {
        count: np.array([_peak(settings, count, num_steps, image_size) for _ in range(rounds)])
        for count in (few, many)
    }
    return [
        Figure(
            "memory",
            f"peak memory of a build of {many} images / of {few}",
            peaks[many] / peaks[few],
            at_most=1.1,
            note=f"{num_steps} steps, {image_size}x{image_size} pixels, a process each",
        ),
        Figure(
            "memory",
            "growth of that peak / 5 MB",
            (peaks[many] - peaks[few]) / 5e6,
            at_most=1,
        ),
    ]


def _peak(settings: Settings, num_images: int, num_steps: int, image_size: int) -> int:
    with settings.scratch() as directory:
        return peak_memory(_BUILD, f"{directory}/store", num_images, num_steps, image_size)


ENTRIES: dict[str, Entry] = {
    "overhead": overhead,
    "old-files": old_files,
    "batch": batch,
    "files": files,
    "memory": memory,
}

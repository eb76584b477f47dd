"""What a model of true size takes: time, memory and bytes of each part, each in its own process."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import click
from rich.console import Console

import calibzarr
from benchmarks.measure import Entry, Figure, Settings, optimised_blas, peak_bytes
from calibzarr.models import registry

_MOST_MEMORY = 20.0  # GiB
_PROMPT = "a small red circle in the middle of a blue background"
_HESSIANS = 2 * 2**30  # bytes that they may take


def _build(path: Path, num_steps: int, **options: int | str) -> None:
    prompts = path.parent / "prompts.txt"
    prompts.write_text(f"{_PROMPT}\n")
    calibzarr.build(path, prompts=prompts, num_images=1, num_steps=num_steps, **options)  # type: ignore[arg-type]


def _collect(path: Path) -> None:
    calibzarr.collect(path, num_images=1, steps=[0], progress=True)


def _sensitivity(path: Path) -> None:
    calibzarr.sensitivity(path, images=1, probes=1, steps=[0], progress=True)


def _quantize(path: Path) -> None:
    out = path.with_name("checkpoint")
    calibzarr.quantize(path, out, bits_per_weight=4.5, images=1, memory=_HESSIANS, progress=True)


_PARTS: dict[str, Callable[[Path], None]] = {
    "collect": _collect,
    "sensitivity": _sensitivity,
    "quantize": _quantize,
}


def part(name: str, model: str, dtype: str, size: int, path: Path, *, small: bool) -> None:
    """Run one part in this process, and print what it took as JSON.

    Args:
        name: ``build``, of two steps; ``pass``, a build of one; or one of those that add to it.
        model: a name of the registry.
        dtype: of its weights and activations.
        size: of images, in pixels.
        path: of the store.
        small: whether the model is a small one.
    """
    from benchmarks import full_size_models

    start = time.perf_counter()
    loaded = full_size_models.load(model, dtype, small=small)
    ready = time.perf_counter()
    Console(stderr=True).print(f"{model} is made in {ready - start:.0f} s: {name}")
    before = _bytes(path.parent)
    with patch.object(registry, "load", lambda _: loaded):
        if name in _PARTS:
            _PARTS[name](path)
        else:
            steps = 2 if name == "build" else 1
            _build(path, steps, model=model, image_size=size, progress=True)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - ready,
                "peak": peak_bytes(),
                "weights": sum(loaded.module_sizes().values()),
                "bytes": _bytes(path.parent) - before,
            }
        )
    )


def _bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def parts(
    names: Sequence[str], model: str, dtype: str, size: int, settings: Settings
) -> list[Figure]:
    """Run parts one after the other on one store."""
    if not optimised_blas():
        click.echo(
            "Error: a model of true size takes hours with MLX's own BLAS; preload OpenBLAS: "
            "LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libopenblas.so.0 OPENBLAS_NUM_THREADS=1",
            err=True,
        )
        sys.exit(2)
    size = settings.choose(size, 64)
    figures = []
    entry = f"{model}-{dtype}"
    with settings.scratch() as directory:
        for name in names:
            arguments = [name, model, dtype, size, f"{directory}/a.zarr", int(settings.quick)]
            command = [sys.executable, "-m", "benchmarks.full_size", *map(str, arguments)]
            scripts = os.pathsep.join(
                [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
            )
            environment = {**os.environ, "PYTHONPATH": scripts.rstrip(os.pathsep)}
            done = subprocess.run(
                command, env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
            note = f"{found['weights'] / 2**30:.1f} GiB of weights, {size} pixels"
            figures += [
                Figure(entry, f"{name}: seconds", [found["seconds"]], note=note),
                Figure(entry, f"{name}: peak, GiB", [found["peak"] / 2**30], at_most=_MOST_MEMORY),
                Figure(entry, f"{name}: MB written", [found["bytes"] / 1e6]),
            ]
    return figures


_ALL = ("build", "collect", "sensitivity", "quantize")

ENTRIES: dict[str, Entry] = {
    "sd3-medium": partial(parts, _ALL, "sd3-medium", "float32", 512),
    "flux-schnell": partial(parts, _ALL, "flux-schnell", "float32", 512),
    "sd3-medium-float16": partial(parts, ("pass",), "sd3-medium", "float16", 64),
}


if __name__ == "__main__":
    _name, _model, _dtype, _size, _path, _small = sys.argv[1:]
    part(_name, _model, _dtype, int(_size), Path(_path), small=bool(int(_small)))

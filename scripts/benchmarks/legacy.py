"""What moving to the old directory and back costs, against plain loops of NumPy's own calls."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import data
from benchmarks.measure import Entry, Figure, Settings, interleave
from calibzarr import parallel
from calibzarr.legacy.exporting import export_legacy
from calibzarr.legacy.importing import import_legacy
from calibzarr.storage import reading, store
from calibzarr.storage.commit import update_attributes
from calibzarr.storage.manifest import prompts_sha256

_PEAK_OF_A_MOVE = """
import resource, sys
import calibzarr
command, source, target = sys.argv[1:]
if __name__ == "__main__":
    move = calibzarr.export_legacy if command == "export" else calibzarr.import_legacy
    move(source, target, progress=False)
    peak = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(peak)
"""


def move(settings: Settings) -> list[Figure]:
    """Time of an export and of an import, against one process with NumPy's own functions."""
    num_images, num_steps, size = settings.choose((50, 50, 64), (2, 4, 32))
    with settings.scratch() as directory:
        path, old = Path(directory) / "store", Path(directory) / "old"
        _make_store(path, num_images, num_steps, size)
        _export_plainly(path, old)
        exporting = interleave(
            {
                "plain": lambda turn: _export_plainly(path, turn.directory / "old"),
                "calibzarr": lambda turn: export_legacy(
                    path, turn.directory / "old", progress=False
                ),
            },
            settings.turns(3),
            settings,
        )
        importing = interleave(
            {
                "loading": lambda _: _load_plainly(old),
                "plain": lambda turn: _import_plainly(old, turn.directory / "store"),
                "calibzarr": lambda turn: import_legacy(
                    old, turn.directory / "store", progress=False
                ),
            },
            settings.turns(3),
            settings,
        )
        ours = Path(directory) / "ours"
        export_legacy(path, ours, progress=False)
        sizes = [_bytes(files / "samples") for files in (ours, old)]
    workers = parallel.default_workers()
    note = (
        f"{num_images * (num_steps + 1)} states of {data.CHANNELS}x{size}x{size} and their "
        f"pictures, {workers} workers"
    )
    return [
        Figure(
            "move",
            "time of export, a loop with np.savez_compressed / calibzarr",
            exporting["plain"] / exporting["calibzarr"],
            at_least=None if settings.quick else 1.8,
            note=note,
        ),
        Figure(
            "move",
            "time of import, a loop with np.load that writes the same store / calibzarr",
            importing["plain"] / importing["calibzarr"],
            at_least=None if settings.quick else 1.5,
            note=note,
        ),
        Figure(
            "move",
            "time of a loop with np.load that writes nothing / of import",
            importing["loading"] / importing["calibzarr"],
            note=note,
        ),
        Figure(
            "move",
            "bytes of npz files, calibzarr / np.savez_compressed",
            [sizes[0] / sizes[1]],
            at_most=1.03,
        ),
    ]


def memory(settings: Settings) -> list[Figure]:
    """Peak memory of the moves of many images against few."""
    few, many = settings.choose((40, 160), (2, 4))  # the allocator has settled after some 30
    num_steps, size = settings.choose((20, 32), (4, 32))
    peaks = {}
    with settings.scratch() as directory:
        for count in (few, many):
            path, old, new = (Path(directory) / f"{name}-{count}" for name in ("a", "old", "b"))
            _make_store(path, count, num_steps, size)
            peaks["export", count] = _peak("export", path, old)
            peaks["import", count] = _peak("import", old, new)
    return [
        Figure(
            "memory",
            f"peak memory of the {name}, {many} images / {few}",
            [peaks[name, many] / peaks[name, few]],
            at_most=1.1,
            note=f"{num_steps + 1} states of {data.CHANNELS}x{size}x{size}; largest process",
        )
        for name in ("export", "import")
    ]


def _peak(command: str, source: Path, target: Path) -> int:
    script = target.with_suffix(".py")  # new processes import it, as they do any program
    script.write_text(_PEAK_OF_A_MOVE, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, script, command, source, target],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(result.stdout)


def _make_store(path: Path, num_images: int, num_steps: int, size: int) -> None:
    shape = (num_steps + 1, data.CHANNELS, size, size)
    prompts = [f"picture {image}" for image in range(num_images)]
    data.create_store(path, num_images, shape, prompts=prompts)
    attributes = {
        "model": "sd3-medium",
        "num_steps": num_steps,
        "cfg_weight": 7.5,
        "image_size": 8 * size,
        "seed": 0,
        "prompts_sha256": prompts_sha256(prompts),
        "prompt_source": "none",
    }
    update_attributes(path, attributes)
    writer = store.ImageWriter(path)
    for image in range(num_images):
        writer.write(image, data.trajectory(image, size, num_steps), data.picture(image, 8 * size))
    store.finish(path)


def _export_plainly(path: Path, directory: Path) -> None:
    """The same files by a loop."""
    from benchmarks import old_way

    old_way.prepare(directory)
    dataset = reading.open_store(path)
    sigma = dataset.sigma.values
    for image in range(dataset.sizes["image"]):
        states = dataset.latents[image].values
        for step, state in enumerate(states):
            x = state[None]
            is_final = step == len(states) - 1
            old_way.write_state(directory, image, step, x, float(sigma[step]), is_final=is_final)
        final = states[-1].transpose(1, 2, 0) / np.float32(1.5305) + np.float32(0.0609)
        old_way.write_result(directory, image, final, dataset.decoded[image].values)
    old_way.write_manifest(directory, dataset.prompt.values.tolist(), dataset.seed.values.tolist())


def _load_plainly(directory: Path) -> list[np.ndarray]:
    """All states of all images, one image's at a time."""
    return [
        np.concatenate([_load_state(file) for file in files])[:, :1, :1, :1].copy()
        for files in _files_by_image(directory)
    ]


def _load_state(file: Path) -> np.ndarray:
    with np.load(file) as archive:
        assert archive["sigma"] >= 0
        return archive["x"]


def _files_by_image(directory: Path) -> list[list[Path]]:
    files: dict[str, list[Path]] = {}
    for file in sorted((directory / "samples").iterdir()):
        files.setdefault(file.name.partition("_")[0], []).append(file)
    return list(files.values())


def _import_plainly(directory: Path, path: Path) -> None:
    """The same store by a loop."""
    groups = _files_by_image(directory)
    for image, files in enumerate(groups):
        states = np.concatenate([_load_state(file) for file in files])
        if not image:
            data.create_store(path, len(groups), states.shape)
            writer = store.ImageWriter(path)
        picture = np.asarray(Image.open(directory / "images" / f"{image:04d}.png"))
        writer.write(image, states, picture)
    store.finish(path)


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


ENTRIES: dict[str, Entry] = {"move": move, "memory": memory}

"""Stores to damage, and ways to damage their files."""

import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))

import calibzarr
from tests.support.measuring import measure

MANIFEST = "zarr.json"

Attack = Callable[[Path, Path, random.Random], object]
"""``attack(store, file, generator)`` damages one file, or what is around it."""


def build(path: Path, num_images: int) -> Path:
    """A store of small images in which nothing is wrong."""
    calibzarr.build(path, num_images=num_images, num_steps=4, image_size=32, progress=False)
    return path


def make(path: Path, num_images: int) -> Path:
    """A store with statistics and sensitivities, in which nothing is wrong."""
    build(path, num_images)
    calibzarr.collect(path, num_images=num_images // 2, steps=[0, 2], progress=False)
    measure(path, images=1, probes=1, steps=[0])
    return path


def make_run(path: Path, reference: Path) -> Path:
    """The same images by a quantized model."""
    config = path.with_suffix(".json")
    calibzarr.export_config(reference, config, weight_bits=4)
    calibzarr.build(path, reference=reference, quantized=config, images=(0, 1), progress=False)
    return path


def files_of(path: Path) -> list[Path]:
    """Regular files of a store, relative to it, in order."""
    return sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())


def contents(path: Path) -> dict[str, bytes]:
    """Bytes of each file of a store, without what was set aside and what is of an attack."""
    aside = path / "latents" / "damaged"
    return {
        str(file): (path / file).read_bytes()
        for file in files_of(path)
        if aside not in (path / file).parents
    }


def flipped(content: bytes, bit: int) -> bytes:
    """The same with one bit changed."""
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def _delete(_: Path, file: Path, __: random.Random) -> None:
    file.unlink()


def _cut(_: Path, file: Path, generator: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: generator.randrange(file.stat().st_size)])


def _empty(_: Path, file: Path, __: random.Random) -> None:
    file.write_bytes(b"")


def _swap(store: Path, file: Path, generator: random.Random) -> None:
    other = store / generator.choice(files_of(store))
    one, two = file.read_bytes(), other.read_bytes()
    file.write_bytes(two)
    other.write_bytes(one)


def _overwrite(store: Path, file: Path, generator: random.Random) -> None:
    other = store / generator.choice(files_of(store))
    file.write_bytes(other.read_bytes())


def _copy(_: Path, file: Path, generator: random.Random) -> None:
    shutil.copy(file, file.with_name(file.name + generator.choice(["9", ".9", "x"])))


def _rename(_: Path, file: Path, generator: random.Random) -> None:
    file.rename(file.with_name("c." + "9" * generator.choice([1, 30, 200])))


def _folder(_: Path, file: Path, __: random.Random) -> None:
    file.unlink()
    file.mkdir()


def _pipe(_: Path, file: Path, __: random.Random) -> None:
    file.unlink()
    os.mkfifo(file)


def _endless(_: Path, file: Path, __: random.Random) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def _dangling(_: Path, file: Path, __: random.Random) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def _nested(_: Path, file: Path, __: random.Random) -> None:
    file.write_text("[" * 200_000)


def _huge(_: Path, file: Path, __: random.Random) -> None:
    file.write_text('{"attributes": ' + "9" * 5000 + "}")


def _lost_folder(store: Path, file: Path, __: random.Random) -> None:
    if file.parent != store:
        shutil.rmtree(file.parent)
    else:
        file.unlink()


def _file_for_folder(store: Path, file: Path, generator: random.Random) -> None:
    _lost_folder(store, file, generator)
    (file if file.parent == store else file.parent).write_text("x")


def _stray(_: Path, file: Path, generator: random.Random) -> None:
    """Something of a name that is looked for, and is no archive."""
    name = generator.choice(["collect.checkpoint", "sensitivity.checkpoint", "copies/next", "x"])
    store = next(parent for parent in file.parents if parent.suffix == ".zarr")
    target = store / name
    generator.choice([os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])(target)


def _retyped(store: Path, _: Path, generator: random.Random) -> None:
    """Another type at some key of some JSON, with the digest as it was."""
    documents = [file for file in files_of(store) if file.suffix == ".json"]
    file = store / generator.choice(documents)
    content = json.loads(file.read_bytes())
    node, key = generator.choice(list(_places(content)))
    node[key] = generator.choice([None, 5, "x", [], {}, 10**40, -1, True, 1e300])
    file.write_text(json.dumps(content))


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Each key of nested JSON, with what it is a key of."""
    members = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in members:
        yield node, key
        if isinstance(value, dict | list):
            yield from _places(value)


ATTACKS: dict[str, Attack] = {
    "deleted": _delete,
    "cut": _cut,
    "emptied": _empty,
    "swapped": _swap,
    "overwritten": _overwrite,
    "copied": _copy,
    "renamed": _rename,
    "folder for file": _folder,
    "pipe": _pipe,
    "endless link": _endless,
    "dangling link": _dangling,
    "deeply nested": _nested,
    "huge number": _huge,
    "lost folder": _lost_folder,
    "file for folder": _file_for_folder,
    "foreign name": _stray,
    "other type": _retyped,
}


def attack(store: Path, number: int) -> tuple[str, str]:
    """Damage a store in the way of a number; the kind of damage, and the file that it was for."""
    generator = random.Random(number)
    kind = list(ATTACKS)[number % len(ATTACKS)]
    files = files_of(store)
    few = [file for file in files if file.name == MANIFEST or file.parts[0] == "copies"]
    file = generator.choice(few if number // len(ATTACKS) % 2 else files)
    ATTACKS[kind](store, store / file, generator)
    return kind, str(file)

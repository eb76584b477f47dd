"""Whether damage of a store is always seen, mended where it can be, and never deadly."""

import json
import multiprocessing
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import damage_by_commands, damage_by_kills, damaged_stores
from benchmarks.damaged_stores import MANIFEST
from benchmarks.measure import Entry, Figure, Settings
from calibzarr.errors import StoreError
from calibzarr.integrity import files
from calibzarr.integrity.verification import verify
from calibzarr.storage import copies, manifest, schema

_WORKERS = 2

Flip = tuple[str, int]
"""A file of the store, and the number of one of its bits."""

Judge = Callable[[Path, str], bool]
"""``judge(store, file)``: whether it is found that this file is not what was written."""


def bits(settings: Settings) -> list[Figure]:
    """Every bit of every array's own metadata, of the root and of its copy.

    Files are judged by the functions that verify judges them by, without the rest of verify.
    """
    with settings.scratch() as directory:
        measured = damaged_stores.make(Path(directory) / "a.zarr", 2)
        built = damaged_stores.build(Path(directory) / "b.zarr", 2)
        root = Path(MANIFEST)
        metadata = [file for file in damaged_stores.files_of(measured) if file.name == MANIFEST]
        found = []
        for what, store, chosen in (  # the root of a measured store would take an hour
            ("arrays' own metadata", measured, [file for file in metadata if file != root]),
            ("the root as it is built", built, [root]),
            ("its copy", built, [Path(copies.ROOT_COPY)]),
        ):
            flips = [
                (str(file), bit)
                for file in chosen
                for bit in range(0, _num_bits(store / file), settings.choose(1, 5003))
            ]
            silent = _silent(store, flips, judged_by_function)
            found.append(_none("bits", f"silent flips, every bit of {what}", silent, flips))
    return found


def flips(settings: Settings) -> list[Figure]:
    """Random bits of all files, half choosing the file evenly and half the byte, by verify."""
    with settings.scratch() as directory:
        store = damaged_stores.make(Path(directory) / "a.zarr", settings.choose(6, 2))
        generator, names = random.Random(0), damaged_stores.files_of(store)
        sizes = [_num_bits(store / file) for file in names]
        chosen = []
        for number in range(settings.choose(2000, 20)):
            evenly, by_size = generator.choice(names), generator.choices(names, sizes)[0]
            file = evenly if number % 2 else by_size
            chosen.append((str(file), generator.randrange(_num_bits(store / file))))
        silent = _silent(store, chosen, judged_by_verify)
    return [_none("flips", "silent flips, random bits of all files", silent, chosen)]


def changes(settings: Settings) -> list[Figure]:
    """Files deleted, cut, swapped, renamed, of other kinds and types, and every command."""
    numbers = range(settings.choose(442, len(damaged_stores.ATTACKS)))
    with settings.scratch() as directory:
        store = damaged_stores.make(Path(directory) / "a.zarr", settings.choose(4, 2))
        run = damaged_stores.make_run(Path(directory) / "run.zarr", store)
        found, peak = damage_by_commands.outcomes(store, run, numbers)
    changed = [outcome for outcome in found if outcome.changed]
    note = f"{len(changed)} changes, {len(damage_by_commands.COMMANDS) + 4} commands each"
    counts = {
        "tracebacks": sum(len(outcome.tracebacks) for outcome in found),
        "commands that do not end": sum(len(outcome.hangs) for outcome in found),
        "second repairs that do something": sum(bool(outcome.again) for outcome in found),
        "changes that verify does not find": sum(not outcome.found for outcome in changed),
    }
    restored, passing = (
        [getattr(outcome, name) for outcome in changed] for name in ("restored", "repaired")
    )
    return [
        *(Figure("changes", what, [count], at_most=0, note=note) for what, count in counts.items()),
        Figure("changes", "restored byte for byte / changes", [sum(restored) / len(changed)]),
        Figure("changes", "repaired, and verify passes / changes", [sum(passing) / len(changed)]),
        Figure(
            "changes",
            "seconds of the slowest command, of the processor",
            [max(outcome.seconds for outcome in found)],
            at_most=5,
        ),
        Figure("changes", "peak memory of a process / 500 MB", [peak / 500e6], at_most=1),
    ]


def kills(settings: Settings) -> list[Figure]:
    """Commands killed at changes of the disk, and given again until they end."""
    with settings.scratch() as directory:
        counts = damage_by_kills.outcomes(Path(directory), settings.choose(1, 0.01))
    note = f"{sum(count.kills for count in counts.values())} kills: " + ", ".join(
        f"{name} {count.kills}" for name, count in counts.items()
    )
    torn, lost = (
        sum(getattr(count, name) for count in counts.values()) for name in ("torn", "lost")
    )
    return [
        Figure("kills", "stores that are torn after a SIGKILL", [torn], at_most=0, note=note),
        Figure("kills", "results that differ in the end", [lost], at_most=0, note=note),
    ]


def judged_by_function(store: Path, file: str) -> bool:
    """By what verify asks of this one file."""
    if file == MANIFEST:
        with_error = partial(manifest.of_content, store, (store / file).read_bytes())
    elif file == copies.ROOT_COPY:
        return bool(files.copy_errors(manifest.read_root(store)))
    else:
        index = files.expected(manifest.read_root(store))
        return copies.hash_file(store / file) not in index[file]
    try:
        with_error()
    except (OSError, ValueError):
        return True
    return False


def judged_by_verify(store: Path, _: str) -> bool:
    """By all of verify."""
    try:
        return not verify(store).ok
    except StoreError:
        return True


def _silent(store: Path, flips: Sequence[Flip], judge: Judge) -> list[Flip]:
    """The flips that are not found, and mean something."""
    context = multiprocessing.get_context("spawn")
    parts = [flips[start::_WORKERS] for start in range(_WORKERS)]
    with context.Pool(_WORKERS) as pool:
        found = pool.starmap(_silent_of, [(store, part, judge) for part in parts])
    silent = [flip for part in found for flip in part]
    for file, bit in silent:
        print(f"silent: bit {bit} of {file}", file=sys.stderr)
    return silent


def _silent_of(whole: Path, flips: Sequence[Flip], judge: Judge) -> list[Flip]:
    """The same in one process, on a copy of its own."""
    store = whole.with_name(f"{multiprocessing.current_process().name}.zarr")
    shutil.copytree(whole, store)
    silent = []
    for file, bit in flips:
        right = (whole / file).read_bytes()
        damaged = damaged_stores.flipped(right, bit)
        (store / file).write_bytes(damaged)
        if not judge(store, file) and not _same_meaning(right, damaged):
            silent.append((file, bit))
        (store / file).write_bytes(right)
    shutil.rmtree(store)
    return silent


def _same_meaning(right: bytes, damaged: bytes) -> bool:
    """Whether both are the same JSON, but for attributes that the format leaves to users."""
    try:
        contents = [json.loads(content) for content in (right, damaged)]
    except ValueError:
        return False
    for content in contents:
        attributes = content.get("attributes", {})
        for name in attributes.keys() - schema.ATTRIBUTES:
            del attributes[name]
    return bool(contents[0] == contents[1])


def _num_bits(file: Path) -> int:
    return 8 * file.stat().st_size


def _none(entry: str, what: str, silent: Sequence[Flip], all_of_them: Sequence[Flip]) -> Figure:
    return Figure(entry, what, [len(silent)], at_most=0, note=f"of {len(all_of_them):,}")


ENTRIES: dict[str, Entry] = {"bits": bits, "flips": flips, "changes": changes, "kills": kills}

"""Commands that are killed at changes of the disk, and given again until they end."""

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from benchmarks import damaged_stores

_ROOT = Path(__file__).parents[2]
os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT / "scripts"), str(_ROOT)])

import calibzarr  # noqa: E402
from calibzarr.collecting import collector, sensitivity  # noqa: E402
from calibzarr.integrity.verification import verify  # noqa: E402
from tests.support import children  # noqa: E402 - the suite's own fault injection
from tests.support.measuring import measure  # noqa: E402

_SMALL = ("--num-steps", "2", "--image-size", "32")


@dataclass(frozen=True)
class Scenario:
    """A command that is killed.

    Attributes:
        kills: how often.
        begin: makes what the command begins with, in an empty directory.
        arguments: of the command; ``{store}`` and ``{out}`` stand for paths.
        resumed: what it takes besides, where the store is there.
    """

    kills: int
    begin: Callable[[Path], object]
    arguments: tuple[str, ...]
    resumed: tuple[str, ...] = ()


@dataclass
class Count:
    """What came of the kills of one command.

    Attributes:
        kills: how many.
        torn: after how many of them a file was damaged, or an image gone.
        lost: how many results in the end were not those of a run that nobody killed.
    """

    kills: int = 0
    torn: int = 0
    lost: int = 0


def _build(images: int, store: Path) -> None:
    calibzarr.build(store, num_images=images, num_steps=2, image_size=32, progress=False)


def _nothing(_: Path) -> None:
    """A build begins with nothing."""


def _built(directory: Path) -> None:
    _build(2, directory / "a.zarr")


def _measured(directory: Path) -> None:
    _collected(directory)
    measure(directory / "a.zarr", images=1, probes=1, steps=[0])
    (directory / "config.json").write_text("{}")


def _collected(directory: Path) -> None:
    _built(directory)
    calibzarr.collect(directory / "a.zarr", num_images=1, steps=[0], progress=False)


def _damaged(directory: Path) -> None:
    _measured(directory)
    store = directory / "a.zarr"
    for file in ("zarr.json", "prompt/zarr.json", "seed/c.0", "latents/zarr.json"):
        (store / file).write_bytes((store / file).read_bytes()[:-7])
    for image, name in enumerate(("latents/c.0.0.0.0.0", "decoded/c.1.0.0.0")):
        content = (store / name).read_bytes()
        (store / name).write_bytes(damaged_stores.flipped(content, 5000 + image))
    (store / "histogram" / "c.0.0.0").unlink()


SCENARIOS = {
    "build": Scenario(
        120, _nothing, ("build", "{store}", "--num-images", "3", *_SMALL), ("--resume",)
    ),
    "growth": Scenario(80, _built, ("build", "{store}", "--resume", "--num-images", "4")),
    "collect": Scenario(
        100, _collected, ("collect", "{store}", "--num-images", "2", "--steps", "0,1")
    ),
    "sensitivity": Scenario(
        60, _measured, ("sensitivity", "{store}", "--images", "1", "--probes", "2", "--steps", "0")
    ),
    "export-config": Scenario(
        60, _measured, ("export-config", "{store}", "{out}/config.json", "--force")
    ),
    "repair": Scenario(80, _damaged, ("repair", "{store}")),
}


def command(*arguments: str) -> None:
    """Run a command that keeps a checkpoint as often as it can; in a process of its own."""
    collector._CHECKPOINT_SECONDS = (0.0, 0.0)
    collector._CHECKPOINT_SHARE = 1.0
    sensitivity._CHECKPOINT_SECONDS = 0.0
    children.command(*arguments)


def outcomes(directory: Path, share: float) -> dict[str, Count]:
    """Kill each command many times.

    Args:
        directory: to work in.
        share: of the kills to make.
    """
    generator = random.Random(0)
    return {
        name: outcome(name, directory, max(1, int(share * scenario.kills)), generator)
        for name, scenario in SCENARIOS.items()
    }


def outcome(name: str, directory: Path, num_kills: int, generator: random.Random) -> Count:
    """Kill one command, and give it again until it ends; as often as it takes."""
    scenario, count = SCENARIOS[name], Count()
    start, expected = directory / f"{name}-start", directory / f"{name}-expected"
    start.mkdir()
    scenario.begin(start)
    shutil.copytree(start, expected)
    changes = _run(scenario, expected, None).changes
    right = _complete(expected)
    while count.kills < num_kills:
        place = directory / name
        shutil.copytree(start, place)
        complete = _complete(place).items() & right.items()
        moments = (generator.randrange(changes) for _ in range(num_kills - count.kills))
        for moment in (*moments, None):  # some begin anew each time, and would never end
            ended = _run(scenario, place, moment)
            if not ended.killed:
                break
            count.kills += 1
            now = _complete(place).items() & right.items()
            count.torn += _is_torn(name, place) or not complete <= now
            complete = now
        same = ended.code == 0 and _results(place).identical(_results(expected))
        count.lost += not same
        if not same:
            print(f"{name}: exit code {ended.code}, {ended.stderr}", file=sys.stderr)
        shutil.rmtree(place)
    return count


def _run(scenario: Scenario, directory: Path, moment: int | None) -> children.Ended:
    """Run a command, killed just before a change of the disk."""
    store = directory / "a.zarr"
    arguments = [*scenario.arguments, *(scenario.resumed if store.exists() else ())]
    arguments = [argument.format(store=store, out=directory) for argument in arguments]
    signals = {} if moment is None else {moment: signal.SIGKILL}
    return children.run(command, *arguments, below=directory, signals=signals)


def _complete(directory: Path) -> dict[str, bytes]:
    """Files of the images that are complete."""
    store = directory / "a.zarr"
    return {
        str(file): file.read_bytes()
        for name in ("latents",)
        for file in store.glob(f"{name}/c.*[0-9]")
    }


def _is_torn(name: str, directory: Path) -> bool:
    """Whether the store has a finding that it did not begin with, or a file is half written."""
    config = directory / "config.json"
    if config.exists():
        json.loads(config.read_bytes())
    if name == "repair" or not (directory / "a.zarr").exists():
        return False
    report = verify(directory / "a.zarr")
    for finding in report.findings:
        print(f"{name}: {finding.message}", file=sys.stderr)
    return not report.ok


def _results(directory: Path) -> xr.Dataset:
    """All values of a store, without what tells when and by which files they were made."""
    dataset = calibzarr.open_store(directory / "a.zarr").load().drop_attrs()
    return dataset.isel(image=dataset.complete.values)  # the others are built again

"""What every command does with a damaged store: it ends, soon, and without a traceback."""

import contextlib
import io
import multiprocessing
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import damaged_stores

_LIMIT = 60  # seconds after which a command is ended, on a busy machine
_WORKERS = 2
COMMANDS = (  # those that read come first
    ("info", "{store}"),
    ("analyze", "{store}", "--json"),
    ("export-config", "{store}", "{out}/config.json", "--method", "uniform"),
    ("export-legacy", "{store}", "{out}/old", "--workers", "1"),
    ("compare", "{store}", "{run}"),
    ("sensitivity", "{store}", "--images", "1", "--probes", "1", "--steps", "0"),
    ("collect", "{store}", "--num-images", "1", "--steps", "0"),
    ("build", "{store}", "--resume"),
)


class _Hung(BaseException):
    """A command took too long; no handler of errors takes it for its own."""


@dataclass
class Outcome:
    """What came of one attack.

    Attributes:
        kind: of damage.
        file: that it was for.
        changed: whether the attack changed anything.
        found: whether verify failed.
        tracebacks: commands that let an exception out, with its text.
        hangs: commands that had to be ended.
        seconds: of the processor, that the slowest command took.
        repaired: whether repair ended well and verify passes then.
        restored: whether every file was then what it was before the attack.
        told: what repair could not do, in its words.
        again: what a second repair did.
    """

    kind: str
    file: str
    changed: bool = True
    found: bool = False
    tracebacks: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    seconds: float = 0.0
    repaired: bool = False
    restored: bool = False
    told: str = ""
    again: str = ""

    @property
    def good(self) -> bool:
        """Whether there is nothing to look at."""
        dead = self.tracebacks or self.hangs or self.again
        return not dead and (not self.changed or (self.found and self.restored))


def outcomes(whole: Path, run: Path, numbers: Sequence[int]) -> tuple[list[Outcome], int]:
    """Attack a store in many ways, each time from the whole one.

    Args:
        whole: store in which nothing is wrong.
        run: of a quantized model, with the same images.
        numbers: of the attacks.

    Returns:
        What came of each, and the greatest peak memory of a process, bytes.
    """
    context = multiprocessing.get_context("spawn")
    parts = [numbers[start::_WORKERS] for start in range(_WORKERS)]
    with context.Pool(_WORKERS) as pool:
        found = pool.starmap(_outcomes, [(whole, run, part) for part in parts])
    return [one for part, _ in found for one in part], max(peak for _, peak in found)


def _outcomes(whole: Path, run: Path, numbers: Sequence[int]) -> tuple[list[Outcome], int]:
    from calibzarr.models import registry

    tiny = registry.load("tiny")
    registry.load = lambda _: tiny  # type: ignore[assignment]  # once for all attacks
    signal.signal(signal.SIGALRM, _hang)
    before = damaged_stores.contents(whole)
    with _scratch(whole) as directory:
        found = []
        for number in numbers:
            found.append(_outcome(whole, before, run, number, directory))
            if not found[-1].good:
                print(number, found[-1], file=sys.stderr, flush=True)
    return found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def _scratch(whole: Path) -> Iterator[Path]:
    directory = whole.with_name(f"attacked-{multiprocessing.current_process().name}")
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


def _hang(*_: object) -> None:
    raise _Hung


def _outcome(
    whole: Path, before: dict[str, bytes], run: Path, number: int, directory: Path
) -> Outcome:
    stores = [directory / "repaired.zarr", directory / "used.zarr"]
    for store in stores:
        shutil.copytree(whole, store)
        outcome = Outcome(*damaged_stores.attack(store, number))
    used = [*COMMANDS, ("verify", "{store}")]
    for store, commands in zip(stores, ([("verify", "{store}")], used), strict=True):
        for command in commands:
            places = {"store": store, "out": directory, "run": run}
            code, _ = _run(outcome, [part.format(**places) for part in command])
            if store is stores[0]:
                outcome.found = code != 0
    _repair(outcome, stores[0], before)
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return outcome


def _repair(outcome: Outcome, store: Path, before: dict[str, bytes]) -> None:
    now = damaged_stores.contents(store)
    outcome.changed = now != before or outcome.found
    code, told = _run(outcome, ["repair", str(store)])
    first = damaged_stores.contents(store)
    _, again = _run(outcome, ["repair", str(store)])
    outcome.again = "" if "nothing to repair" in again or code else again
    outcome.again += "" if damaged_stores.contents(store) == first else "changed files"
    passed, _ = _run(outcome, ["verify", str(store)])
    outcome.restored = first == before
    outcome.repaired = code == 0 and passed == 0
    outcome.told = told if not outcome.restored else ""


def _run(outcome: Outcome, arguments: list[str]) -> tuple[int, str]:
    """Run a command; its exit code, and all that it said."""
    from calibzarr import cli

    said, code = io.StringIO(), 1
    sys.argv = ["calibzarr", *arguments]
    used = time.process_time()
    signal.alarm(_LIMIT)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except _Hung:
        outcome.hangs.append(arguments[0])
    except BaseException as error:  # noqa: BLE001 - what no command may let out
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        outcome.tracebacks.append(f"{arguments[0]}: {error!r:.100} at {place}")
    finally:
        signal.alarm(0)
    outcome.seconds = max(outcome.seconds, time.process_time() - used)
    return code, said.getvalue()

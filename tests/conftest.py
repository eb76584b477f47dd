import os
import shutil
import sys
import tempfile

# Before anything imports huggingface_hub, also in the processes that tests start: the suite
# touches neither the user's cache nor the network.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="calibzarr-tests-")
os.environ["HF_HUB_CACHE"] = os.path.join(os.environ["HF_HOME"], "hub")  # goes before HF_HOME
os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # before NumPy: workers share the processors
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.pop("UV_RUN_RECURSION_DEPTH", None)  # hints name what was typed, also under uv

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import calibzarr
from calibzarr import cli
from calibzarr.models import registry
from calibzarr.models.base import Model
from tests.support.replaying import NUM_STEPS, Replayed, dump

MakeStore = Callable[..., Path]

hypothesis.settings.register_profile("default", deadline=None)  # machines differ, and are busy
hypothesis.settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--long``."""
    parser.addoption(
        "--long", action="store_true", help="kill and resume at many more moments than usual"
    )


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """At how many moments a test kills what it tests: 8, or 40 with ``--long``."""
    return 40 if request.config.getoption("--long") else 8


@pytest.fixture(scope="session")
def tiny() -> Model:
    """The embedded model; tests leave it as they find it."""
    return registry.load("tiny")


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory, tiny: Model) -> MakeStore:
    """Build a store, collect its statistics if asked, and give its path.

    Whoever asks for the same gets the same: tests copy it before they change it.
    """
    made: dict[str, Path] = {}

    def make(*, collect: Mapping[str, Any] | None = None, **options: Any) -> Path:
        key = repr((collect, sorted(options.items())))
        if key not in made:
            path = tmp_path_factory.mktemp("store") / "a.zarr"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(registry, "load", lambda name: tiny)
                if collect is None:
                    calibzarr.build(path, **options)
                else:
                    shutil.copytree(make(**options), path)
                    calibzarr.collect(path, **collect)
            made[key] = path
        return made[key]

    return make


@pytest.fixture(scope="session")
def replayed(make_store: MakeStore, tiny: Model) -> Replayed:
    """A store with statistics, and the values that they are of; see :class:`Replayed`."""
    bare = make_store(num_images=1, num_steps=1)
    collected = {"steps": "all", "images": (0, 5)}
    path = make_store(num_images=7, num_steps=NUM_STEPS, collect=collected)
    weights = {layer.name: tiny.weight(layer) for layer in tiny.layers()}
    return Replayed(path, bare, dump(path, tiny), weights)


@pytest.fixture
def loaded_once(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work within this process shares one loaded model; processes load their own."""
    monkeypatch.setattr(registry, "load", lambda name: tiny)


@pytest.fixture
def run(capsys, monkeypatch, loaded_once):
    """Run the command line within this process: exit code, standard output, standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["calibzarr", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return run

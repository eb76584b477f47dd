"""The models that calibzarr can run: its own, and those that other packages bring.

A model is an entry point of the group ``calibzarr.models`` which loads a
:class:`calibzarr.models.entry.ModelEntry`. Calibzarr's own are plain entry points made here, so
that they are there without an installation; they go the same way. Names are listed without an
import of anything that they stand for.
"""

import logging
import time
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from calibzarr.errors import OptionError
from calibzarr.models import builtin, formulas
from calibzarr.models.entry import ModelEntry, Noise, ScheduleFormula
from calibzarr.models.loading import hub, sources

if TYPE_CHECKING:
    from calibzarr.models.base import Model

logger = logging.getLogger(__name__)

GROUP = "calibzarr.models"

_METHODS = (  # of the protocol Model, which imports what help does not need
    "decode",
    "denoiser",
    "encode",
    "from_numpy",
    "initial_latents",
    "latent_shape",
    "layers",
    "observing",
    "schedule",
    "to_numpy",
    "weight",
)

_BUILT_IN = {
    name: EntryPoint(name, f"calibzarr.models.builtin:{attribute}", GROUP)
    for name, attribute in (
        ("tiny", "TINY"),
        ("sd3-medium", "SD3_MEDIUM"),
        ("sd3.5-large", "SD35_LARGE"),
        ("flux-schnell", "FLUX_SCHNELL"),
        ("flux-dev", "FLUX_DEV"),
    )
}


def names() -> tuple[str, ...]:
    """Names of all models, also of those that turn out not to work when they are asked for."""
    return (*_BUILT_IN, *sorted({point.name for point in _plugins()} - _BUILT_IN.keys()))


def find(name: str) -> ModelEntry:
    """The entry of a model, by its name; or of one's own weights, by their path or repository.

    Raises:
        OptionError: if there is no such model, or its entry cannot be used; says why.
    """
    if name in _BUILT_IN:
        return _entry(_BUILT_IN[name])
    points = [point for point in _plugins() if point.name == name]
    if not points and sources.is_one(name):
        return builtin.of_weights(name)
    if not points:
        raise OptionError(f"unknown model {name!r}; the models are {', '.join(names())}")
    if len(points) > 1:
        raise OptionError(f"the model {name!r} {_several(points)}")
    return _entry(points[0])


def find_if_known(name: object) -> ModelEntry | None:
    """The entry of a model, or None where a store names none that is here."""
    try:
        return find(name) if isinstance(name, str) else None
    except OptionError:
        return None


def load(name: str) -> "Model":
    """Load a model with all its weights.

    Raises:
        OptionError: if there is no such model.
        ValueError: if weights are damaged.
        MissingFilesError: if weights are not on this machine; says how to fetch them.
        ModuleNotFoundError: if the framework that it runs on is not installed.
        TypeError: if a package's model is not what its entry says, or lacks a method.
    """
    entry = find(name)
    start = time.monotonic()
    model = entry.load()
    logger.info("%s is loaded, in %.1f s", name, time.monotonic() - start)
    missing = [method for method in _METHODS if not callable(getattr(model, method, None))]
    if missing:
        raise TypeError(f"the model {name!r} is no Model: it has no {', '.join(missing)}")
    if model.name != entry.name:
        raise TypeError(f"the model {name!r} calls itself {model.name!r}")
    return model


def download(name: str) -> None:
    """Fetch what a model needs and this machine lacks, from the Hugging Face Hub.

    Args:
        name: of a model, or a repository of one's own weights.

    Raises:
        OptionError: if there is no such model, or it is of no known architecture.
        MissingFilesError: if a file cannot be had.
    """
    if sources.is_repository(name) and hub.cached_snapshot(name) is None:
        hub.fetch_weights(name, sources.FLUX_DECODER)
    entry = find(name)
    hub.fetch(entry.name, entry.files)


def problems() -> list[str]:
    """What is wrong with the models of other packages, in words; none of it hurts the others."""
    plugins = _plugins()
    found = []
    for name in sorted({point.name for point in plugins}):
        points = [point for point in plugins if point.name == name]
        if name in _BUILT_IN:
            found.append(f"{name} is calibzarr's own, and not that {_origins(points)}")
        elif len(points) > 1:
            found.append(f"{name} {_several(points)}")
        else:
            try:
                _entry(points[0])
            except OptionError as error:
                found.append(str(error))
    return found


def noise_of(manifest: Mapping[str, Any]) -> Noise | None:
    """How the first states of a store were drawn; None if only a model that is not here knows.

    A manifest that names none is of DiffusionKit's.
    """
    name = manifest.get("noise")
    if name in (None, formulas.NOISE.name):
        return formulas.NOISE
    entry = find_if_known(manifest.get("model"))
    return entry.noise if entry is not None and entry.noise.name == name else None


def schedules_of(manifest: Mapping[str, Any]) -> tuple[ScheduleFormula, ...]:
    """The formulas that the noise levels of a store may follow; none if they are not known here.

    A manifest that names none is of one of DiffusionKit's.
    """
    name = manifest.get("schedule")
    if name is None:
        return formulas.schedules_of_sampler(manifest.get("sampler"))
    entries = [*builtin.MODELS.values(), find_if_known(manifest.get("model"))]
    found = [entry.schedule for entry in entries if entry and entry.schedule.name == name]
    return tuple(found[:1])


def _plugins() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))


def _entry(point: EntryPoint) -> ModelEntry:
    try:
        entry = point.load()
    except Exception as error:
        raise OptionError(
            f"the model {point.name!r} {_origins([point])} cannot be used: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(entry, ModelEntry):
        raise OptionError(
            f"the model {point.name!r} {_origins([point])} cannot be used: {point.value} is no "
            f"ModelEntry"
        )
    if entry.name != point.name:
        raise OptionError(
            f"the model {point.name!r} {_origins([point])} cannot be used: its entry is named "
            f"{entry.name!r}"
        )
    return entry


def _several(points: list[EntryPoint]) -> str:
    return f"comes more than once, and none of them is used: {_origins(points)}"


def _origins(points: list[EntryPoint]) -> str:
    """Which packages bring models."""
    return "of " + " and ".join(
        f"{point.dist.name} ({point.value})" if point.dist is not None else point.value
        for point in points
    )

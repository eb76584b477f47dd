"""Whether a store is whole and true: its metadata, every image, its statistics."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from calibzarr.errors import OptionError
from calibzarr.integrity import metadata_checks, statistics_checks, trajectory_checks
from calibzarr.integrity.findings import CHECKS, Report, Tally
from calibzarr.integrity.image_checks import check_images
from calibzarr.integrity.opened import Opened, open_for_checks
from calibzarr.models import registry
from calibzarr.prompts.lists import MAX_SEED, prompts_sha256
from calibzarr.storage import backup, schema, store

_BUILD = tuple(variable.name for variable in schema.BUILD_VARIABLES)


def verify(
    path: str | Path,
    *,
    model: bool = False,
    sample: int = 4,
    seed: int = 0,
    tolerance: float = 2e-5,
    console: Console | None = None,
) -> Report:
    """Check a store: its metadata, every image, its statistics; and some images with its model.

    Args:
        path: directory of the store.
        model: whether to make some images again with the model, and compare.
        sample: how many of them, chosen at random.
        seed: of that choice.
        tolerance: greatest difference of their states, in latent units, that is let pass.
        console: where to report progress; silent if not given.

    Returns:
        What was found. Images that are not complete are listed, and are no failure.

    Raises:
        FileNotFoundError: if nothing is at ``path``, or the model's weights are not here.
        ValueError: if it is no calibzarr store, or of a format that this version cannot read.
        OptionError: if a value is not allowed, or the model is not known.
    """
    path, console = Path(path), console or Console(quiet=True)
    if sample < 1:
        raise OptionError(f"sample must be 1 or more, got {sample}")
    if not 0 <= tolerance < float("inf"):
        raise OptionError(f"tolerance must be 0 or more, got {tolerance}")
    tally = Tally()
    tally.record("manifest", manifest_errors(path))
    if tally.findings:
        return _report(path, np.zeros(0, dtype=bool), tally)
    attributes = store.manifest(path)
    complete = store.completed(path, attributes["num_images"])
    in_root, of_arrays = metadata_errors(path, attributes)
    tally.record("metadata", in_root + of_arrays)
    if in_root:  # readers go by it: values would mean nothing
        return _report(path, complete, tally)
    try:
        opened = open_for_checks(path, attributes, complete)
    except Exception as error:  # zarr, numcodecs and JSON raise anything
        tally.record("metadata", [f"the arrays cannot be opened: {error}"])
        return _report(path, complete, tally)
    tally.add(check_coordinates(opened))
    tally.add(check_images(opened, console))
    if statistics_checks.present(attributes):
        tally.add(statistics_checks.check(opened.group, attributes, complete))
    if model:
        from calibzarr.integrity import regeneration  # and the model's framework

        sure = _without_findings(opened, tally)
        tally.add(regeneration.check(opened, sure, sample, seed, tolerance, console))
    return _report(path, complete, tally)


def _report(path: Path, complete: np.ndarray, tally: Tally) -> Report:
    order = list(CHECKS)
    found = sorted(tally.findings, key=lambda each: (order.index(each.check), each.image or 0))
    incomplete = tuple(np.flatnonzero(~complete).tolist())
    return Report(path, len(complete), incomplete, dict(tally.passed), tuple(found))


def manifest_errors(path: Path) -> list[str]:
    """What is wrong with the root's attributes, in words.

    Raises:
        FileNotFoundError: if nothing is at ``path``.
        ValueError: if it is no calibzarr store, or of a format that this version cannot read.
    """
    copy = backup.read_root(path)
    try:
        attributes = store.manifest(path)
    except ValueError as error:
        version = _format_version(metadata_checks.read(path / "zarr.json"))
        newer = version not in (None, schema.FORMAT_VERSION)
        if newer and copy is not None:
            newer = version == _format_version(copy)  # else it is damaged, not newer
        if newer or not looks_like_a_store(path):
            raise
        return [str(error)]
    return attribute_errors(attributes, copy)


def attribute_errors(attributes: Mapping[str, Any], copy: Mapping[str, Any] | None) -> list[str]:
    """What is wrong with a manifest, in words.

    Args:
        attributes: the manifest.
        copy: of the root's metadata, if there is one that is whole.
    """
    errors = []
    for name, expected in (("format", schema.FORMAT), ("format_version", schema.FORMAT_VERSION)):
        if attributes.get(name) != expected:
            errors.append(f"{name} is {attributes.get(name)!r}, not {expected!r}")
    for name in ("num_images", "num_steps", "image_size"):
        value = attributes.get(name)
        if not isinstance(value, int) or value < 1:
            errors.append(f"{name} is {value!r}, not a whole number from 1")
    if attributes.get("latent_dtype") not in schema.LATENT_DTYPES:
        errors.append(f"latent_dtype is {attributes.get('latent_dtype')!r}")
    errors += [
        f"it lacks {name}"
        for name in (*schema.FINGERPRINT, "prompts_sha256")
        if name not in attributes
    ]
    if copy is not None:
        errors += [
            f"{name} is {attributes.get(name)!r}, but {copy['attributes'].get(name)!r} in its copy"
            for name in backup.differing(attributes, copy["attributes"])
        ]
    return errors


def _format_version(root: dict[str, Any] | None) -> Any:
    attributes = (root or {}).get("attributes")
    return attributes.get("format_version") if isinstance(attributes, dict) else None


def looks_like_a_store(path: Path) -> bool:
    """Whether a directory holds variables of a build, whatever else is wrong with it."""
    return any((path / name).is_dir() for name in _BUILD)


def metadata_errors(path: Path, attributes: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What is wrong with the metadata of the arrays, in the root and of their own, in words.

    Args:
        path: directory of the store.
        attributes: its manifest, without errors.
    """
    published = store.published_metadata(path)
    wanted, in_root = wanted_metadata(attributes, published)
    of_arrays = []
    for name, expected in wanted.items():
        own = metadata_checks.read(path / name / "zarr.json")
        listed = published.get(name)
        what = metadata_checks.difference(listed, expected)
        if what is not None:
            in_root.append(f"{name}, in the root's metadata: {what}")
        what = metadata_checks.difference(_to_size(own, expected), expected)
        if what is not None:
            of_arrays.append(f"{name}, metadata of its own: {what}")
        elif metadata_checks.checksummed(listed or {}) != metadata_checks.checksummed(own or {}):
            of_arrays.append(
                f"{name}, metadata of its own: its codecs are not those in the root's metadata"
            )
    return in_root, of_arrays


def _to_size(own: dict[str, Any] | None, expected: dict[str, Any]) -> dict[str, Any] | None:
    """An array's own metadata; those of an unfinished extension as they were before it."""
    sizes = dict(zip(expected["dimension_names"], expected["shape"], strict=True))
    return metadata_checks.cut(own, sizes["image"]) if own and "image" in sizes else own


def wanted_metadata(
    attributes: dict[str, Any], published: dict[str, Any]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What the metadata of the arrays must be, by name, and what keeps them from being known.

    Args:
        attributes: the manifest, without errors.
        published: the metadata in the root.
    """
    shape = (published.get(schema.LATENTS.name) or {}).get("shape")
    latent_shape = tuple(shape[2:]) if isinstance(shape, list) else ()
    entry = registry.MODELS.get(attributes["model"])
    if entry is not None:
        latent_shape = entry.latent_shape(attributes["image_size"])
    if len(latent_shape) != 3:
        return {}, ["latents, metadata in the root: they have no shape"]
    sizes = metadata_checks.sizes(attributes, latent_shape)
    wanted = metadata_checks.expected(schema.BUILD_VARIABLES, sizes, attributes["latent_dtype"])
    if not statistics_checks.present(attributes):
        return wanted, []
    try:
        features = published["feature_min"]["shape"][2]
        own = metadata_checks.statistics_sizes(attributes, features, sizes)
        variables = schema.collected_variables(published)
        return {**wanted, **metadata_checks.expected(variables, own)}, []
    except (KeyError, IndexError, TypeError, ValueError) as error:
        return wanted, [f"the sizes of the statistics are not known: {error!r}"]


def check_coordinates(opened: Opened) -> Tally:
    """Check everything that is small: the coordinates, against the manifest and their copies."""
    tally, attributes, known = Tally(), opened.attributes, opened.coordinates
    errors = [f"{name} cannot be read: {why}" for name, why in opened.unreadable.items()]
    copies = backup.read_coordinates(opened.path)
    texts = [str(text) for text in known.get(schema.PROMPT.name, ())]
    before = len(tally.findings)
    for variable, what in ((schema.PROMPT, "prompt"), (schema.SEED, "seed")):
        stored, copy = known.get(variable.name), copies.get(variable.name)
        if stored is None or copy is None:
            continue
        both = min(len(stored), len(copy))
        for image in np.flatnonzero(stored[:both] != copy[:both]):
            message = f"its {what} is {stored[image]!s}, but {copy[image]!s} in the copy"
            tally.record("coordinates", [message], int(image))
    if texts and prompts_sha256(texts) != attributes["prompts_sha256"]:
        errors.append("the prompts do not have the SHA-256 of the manifest")
    seeds = known.get(schema.SEED.name, np.zeros(0, dtype=np.int64))
    for image in np.flatnonzero((seeds < 0) | (seeds > MAX_SEED)):
        tally.record("coordinates", [f"its seed is {seeds[image]}, which is none"], int(image))
    marked = known.get(schema.COMPLETE.name, np.zeros(0, dtype=bool))
    for image in np.flatnonzero(marked & ~opened.complete[: len(marked)]):
        message = "it is marked as complete, but its states are not there"
        tally.record("coordinates", [message], int(image))
    counted = attributes.get("n_completed")
    if isinstance(counted, int) and counted > opened.complete.sum():
        errors.append(f"n_completed is {counted}, but {opened.complete.sum()} images are complete")
    if errors or len(tally.findings) == before:
        tally.record("coordinates", errors)
    _check_schedule(opened, tally)
    return tally


def _check_schedule(opened: Opened, tally: Tally) -> None:
    known = opened.coordinates
    names = (schema.SIGMA.name, schema.TIMESTEP.name, schema.FINAL.name)
    if not all(name in known for name in names):
        return
    sigma, timestep, final = (known[name] for name in names)
    told = None if "imported" in opened.attributes else timestep
    errors = trajectory_checks.schedule_errors(sigma, told, opened.attributes["sampler"])
    if not np.array_equal(final, np.arange(len(final)) == len(final) - 1):
        errors.append("final is not true for the last state alone")
    copies = backup.read_coordinates(opened.path)
    for name in names:
        if name in copies and not np.array_equal(copies[name], known[name]):
            errors.append(f"{name} differs from its copy")
    tally.record("schedule", errors)


def _without_findings(opened: Opened, tally: Tally) -> np.ndarray:
    """Complete images that nothing was found about."""
    doubtful: Iterable[int | None] = {finding.image for finding in tally.findings}
    return np.setdiff1d(np.flatnonzero(opened.complete), [i for i in doubtful if i is not None])

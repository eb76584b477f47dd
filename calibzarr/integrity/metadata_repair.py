"""Putting a store's metadata in order: the manifest, and what describes the arrays."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from calibzarr.errors import Option, OptionError, StoreError
from calibzarr.integrity import set_aside
from calibzarr.integrity.metadata_checks import (
    attribute_errors,
    checked_root,
    checksummed,
    cut,
    cut_like,
    difference,
    has,
    read,
    wanted_metadata,
)
from calibzarr.integrity.opened import codec_errors_named
from calibzarr.models import registry
from calibzarr.models.base import Model
from calibzarr.models.entry import ModelEntry
from calibzarr.progress import Silent
from calibzarr.sampling import builder
from calibzarr.sampling.options import Settings
from calibzarr.sampling.plan import BuildPlan
from calibzarr.storage import backup, durable, schema, shards, store
from calibzarr.storage.manifest import FILE, consolidated, write_root

_PROOF = 0.01  # of the greatest value: other machines' rounding is less, other weights are more


@dataclass(frozen=True)
class Lost:
    """What nothing but the user knows, if the manifest is lost with its copy.

    Attributes:
        model: that the store was built with.
        cfg_weight: guidance weight; the model's default if None.
        batch_size: images sampled together.
    """

    model: str | None = None
    cfg_weight: float | None = None
    batch_size: int | None = None


def repair_metadata(path: Path, lost: Lost) -> list[str]:
    """Put the root's attributes and the metadata of all arrays in order.

    Args:
        path: directory of the store.
        lost: used if the manifest is lost.

    Returns:
        What was done, in words.

    Raises:
        OptionError: if the manifest is lost, and ``lost`` does not name a model.
        ValueError: if ``path`` is no store, or the manifest cannot be rebuilt.
    """
    checked_root(path)  # refuses what is no store, or a newer one
    root, copy = read(path / FILE), backup.read_root(path)
    attributes, done = _right_attributes(path, root, copy, lost)
    right, listed = _right_metadata(path, attributes, root, copy), _listed(root)
    others = {name: metadata for name, metadata in listed.items() if name not in schema.NAMES}
    broken = [name for name in right if not _is_right(_stored(path, name), right[name])]
    for name in broken:
        set_aside.copy(path, path / name / FILE)
        durable.write(path / name / FILE, json.dumps(right[name], indent=2).encode())
    if broken:
        done.append(f"restored the metadata of {', '.join(broken)}")
    if done or listed != others | right:
        new = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": attributes,
            "consolidated_metadata": consolidated(dict(sorted((others | right).items()))),
        }
        if new != root:
            set_aside.copy(path, path / FILE)
            write_root(path, new)
            done.append("consolidated the metadata in the root")
    if backup.read_root(path) is None:
        backup.write_root(path, read(path / FILE) or {})
        done.append("kept a copy of the root's metadata")
    return done


def _right_attributes(
    path: Path, root: dict[str, Any] | None, copy: dict[str, Any] | None, lost: Lost
) -> tuple[dict[str, Any], list[str]]:
    """The manifest as it must be, and what was done for it, in words."""
    attributes = _dictionary(root, "attributes")
    if not attribute_errors(attributes, copy):
        return attributes, []
    if copy is not None and not attribute_errors(copy["attributes"], copy):
        return copy["attributes"], ["restored the manifest from its copy"]
    return _rebuilt(path, lost), ["rebuilt the manifest from the arrays and the model"]


def _stored(path: Path, name: str) -> dict[str, Any] | None:
    """An array's own metadata, beside its chunks."""
    return read(path / name / FILE)


def _all_stored(path: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    found = {name: _stored(path, name) for name in names}
    return {name: metadata for name, metadata in found.items() if metadata is not None}


def _is_right(stored: dict[str, Any] | None, right: dict[str, Any]) -> bool:
    """Whether an array's own metadata are right, or those of an unfinished extension."""
    stored = cut_like(stored, right)
    return difference(stored, right) is None and checksummed(stored or {}) == checksummed(right)


def _dictionary(container: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    value = (container or {}).get(name)
    return value if isinstance(value, dict) else {}


def _listed(root: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metadata of the arrays in a root, as far as they are of the right form."""
    arrays = _dictionary(_dictionary(root, "consolidated_metadata"), "metadata")
    return {name: metadata for name, metadata in arrays.items() if isinstance(metadata, dict)}


def _right_metadata(
    path: Path,
    attributes: dict[str, Any],
    root: dict[str, Any] | None,
    copy: dict[str, Any] | None,
) -> dict[str, Any]:
    """The metadata of every array as they must be, by name."""
    variables = [*schema.build_variables(attributes)]
    for addition in schema.ADDITIONS:
        if has(attributes, addition):
            variables += addition.variables
    names = [variable.name for variable in variables]
    found = (_listed(root), _all_stored(path, names), _listed(copy))
    sources = {
        name: [cut(arrays[name], attributes["num_images"]) for arrays in found if name in arrays]
        for name in names
    }
    wanted = _wanted(path, attributes, sources)
    checksums = all(map(checksummed, sources[schema.LATENTS.name]))
    right = {}
    for name, expected in wanted.items():
        fitting = [found for found in sources[name] if difference(found, expected) is None]
        right[name] = fitting[0] if fitting else _new(expected, checksums=checksums)
    return right


def _wanted(
    path: Path, attributes: dict[str, Any], sources: Mapping[str, Sequence[dict[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """What the metadata must say; some sizes only arrays tell, from the first source that fits."""
    for index in range(3):
        known = {
            name: found[min(index, len(found) - 1)] for name, found in sources.items() if found
        }
        wanted, errors = wanted_metadata(attributes, known)
        if not errors:
            return wanted
    raise StoreError(f"{path} is damaged: {errors[0]}, and no copy tells")


def _new(expected: dict[str, Any], *, checksums: bool) -> dict[str, Any]:
    """Metadata as the schema has them, in a store whose chunks have checksums or have none."""
    if checksums:
        return expected
    codecs = [codec for codec in expected["codecs"] if codec.get("name") != "crc32c"]
    for codec in codecs:
        inner = codec.get("configuration", {}).get("codecs")
        if inner:
            inner[:] = [codec for codec in inner if codec.get("name") != "crc32c"]
    return {**expected, "codecs": codecs}


def _rebuilt(path: Path, lost: Lost) -> dict[str, Any]:
    """A manifest from the arrays' own metadata, the prompts, and what the user knows."""
    if lost.model is None:
        raise OptionError(
            f"{path} has lost its manifest and the copy of it; say what it was built with, by ",
            *(Option("model"), ", and by ", Option("cfg_weight"), " and ", Option("batch_size")),
            " where they were not the defaults",
        )
    plan = _plan_of_remains(path, registry.find(lost.model), lost)
    model = registry.load(plan.entry.name)
    _prove(plan, model)
    return {
        "format": schema.FORMAT,
        "format_version": schema.FORMAT_VERSION,
        **builder.manifest(plan, model),
        "libraries": {},  # not known
    }


def _plan_of_remains(path: Path, entry: ModelEntry, lost: Lost) -> BuildPlan:
    """The plan that a store was built by, as its arrays tell, and the user or defaults."""
    try:
        with codec_errors_named():
            latents, decoded = (
                _stored(path, variable.name) or {} for variable in (schema.LATENTS, schema.DECODED)
            )
            num_images, num_states, *_ = latents["shape"]
            image_size, latent_dtype = decoded["shape"][1], latents["data_type"]
            texts, seeds = (
                np.asarray(zarr.open_array(path / variable.name, mode="r")[:num_images])
                for variable in (schema.PROMPT, schema.SEED)
            )
    except StoreError as error:
        raise StoreError(
            f"{path} has lost its manifest, and what would tell it cannot be read: {error}"
        ) from error
    prompts, source = tuple(map(str, texts)), "unknown"
    built_in = entry.prompts() if entry.prompts else None
    if built_in is not None and prompts == built_in.prompts[: len(prompts)]:
        source = built_in.source
    settings = Settings(
        num_steps=num_states - 1,
        cfg_weight=entry.cfg_weight if lost.cfg_weight is None else float(lost.cfg_weight),
        seed=int(seeds[0]) if (np.diff(seeds) == 1).all() else 0,
        image_size=image_size,
        batch_size=lost.batch_size or 1,
        latent_dtype=latent_dtype,
    )
    return BuildPlan(
        path=path,
        root=None,
        entry=entry,
        settings=settings,
        prompts=prompts,
        seeds=tuple(seeds.tolist()),
        prompt_source=source,
        images=range(len(prompts)),
    )


def _prove(plan: BuildPlan, model: Model) -> None:
    """Check that a guessed plan makes the first image that is there.

    Raises:
        StoreError: if not.
    """
    images = np.flatnonzero(store.completed(plan.path, plan.num_images))[:1].tolist()
    if not images:
        return
    metadata = _stored(plan.path, schema.LATENTS.name) or {}
    (states,) = shards.read_states(plan.path, metadata, images)
    schedule = model.schedule(plan.settings.num_steps)
    (made,) = builder.sample_group(plan, images, model, schedule, Silent())
    final = states[-1].astype(np.float32)
    if not np.abs(made[-1] - final).max() <= _PROOF * np.abs(final).max():
        raise StoreError(
            f"{plan.path} has lost its manifest, and image {images[0]} is not what {model.name} "
            f"makes with guidance weight {plan.settings.cfg_weight} at batch size "
            f"{plan.settings.batch_size}; give the right ",
            *(Option("model"), ", ", Option("cfg_weight"), " and ", Option("batch_size")),
        )

"""Putting the root of a store in order: from its copy, or from what else tells."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.core.metadata.v3 import ArrayV3Metadata

from calibzarr.errors import Option, OptionError, StoreError
from calibzarr.integrity import set_aside
from calibzarr.integrity.opened import codec_errors_named
from calibzarr.models import registry
from calibzarr.models.base import Model
from calibzarr.models.entry import ModelEntry
from calibzarr.progress import Silent
from calibzarr.sampling import builder
from calibzarr.sampling.plan import BuildPlan, plan_of
from calibzarr.storage import copies, durable, schema, shards, store
from calibzarr.storage.manifest import FILE, NewerFormat, Root, consolidated, of_content

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


def repair_root(path: Path, lost: Lost) -> list[str]:
    """Put the root, or its copy, in order: whichever is whole and newer is right.

    Args:
        path: directory of the store, whose lock is held.
        lost: used if the root is lost with its copy.

    Returns:
        What was done, in words.

    Raises:
        OptionError: if the root is lost, and ``lost`` does not name a model.
        ValueError: if ``path`` is no store, or the root cannot be rebuilt.
    """
    done = _make_folders(path)
    root, copy = _root(path, FILE), _root(path, copies.ROOT_COPY)
    if root is None and copy is None:
        content, how = _old_root(path), "restored the manifest from its copy"
        if content is None:
            content = copies.as_bytes(_rebuilt(path, lost))
            how = "rebuilt the manifest from the arrays and the model"
        set_aside.move(path, path / copies.ROOT_COPY)
        set_aside.replace(path, path / FILE, content)
        return [*done, how]
    if root is not None and copy is None and not root.indexed:
        return done + _restore_old_attributes(root)
    numbers = [0 if one is None else _integrity(one)["generation"] for one in (root, copy)]
    if copy is not None and (root is None or numbers[1] > numbers[0]):
        set_aside.replace(path, path / FILE, _with_users_own(copy, path))
        done.append("restored the root's metadata from their copy")
    elif root is not None and (copy is None or _integrity(copy) != _integrity(root)):
        set_aside.replace(path, path / copies.ROOT_COPY, root.content)
        done.append("kept a copy of the root's metadata")
    return done


def _integrity(root: Root) -> dict[str, Any]:
    return dict(root.attributes[copies.ATTRIBUTE])


def _make_folders(path: Path) -> list[str]:
    """Folders of the variables of a build, to be filled again."""
    done = []
    names = {variable.name for variable in schema.BUILD_VARIABLES} | {copies.FOLDER}
    names |= {file.partition("/")[0] for file in copies.read_coordinates(path)} & schema.NAMES
    for name in sorted(names):
        folder = path / name
        if folder.is_dir() or (name == copies.FOLDER and not os.path.lexists(folder)):
            continue
        if name == schema.LATENTS.name:
            set_aside.make_directory(path)
        else:
            set_aside.move(path, folder)
            folder.mkdir()
        done.append(f"made the folder {name} again")
    return done


def _root(path: Path, name: str) -> Root | None:
    """What the root or its copy says, if that is what was written."""
    try:
        return of_content(path, durable.read(path / name, copies.MOST_BYTES))
    except NewerFormat:
        raise
    except (OSError, ValueError):
        return None


def _with_users_own(copy: Root, path: Path) -> bytes:
    """A root as its copy has it, with what the damaged one says of the user's own."""
    root = copies.parsed(copy.content)
    listed = root["consolidated_metadata"]["metadata"]
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        damaged = copies.parse(path / FILE)
        own = {n: at for n, at in damaged["attributes"].items() if n not in schema.ATTRIBUTES}
        root["attributes"] |= own
        for name, metadata in damaged["consolidated_metadata"]["metadata"].items():
            known = name in schema.NAMES or name == copies.FOLDER
            if not known and (path / name / FILE).exists():
                ArrayV3Metadata.from_dict(dict(metadata))
                listed[name] = metadata
    return copies.as_bytes(root)


def _restore_old_attributes(root: Root) -> list[str]:
    """Of a store of 0.1: what decides its states, as the copy has it; root's have no digest."""
    old = copies.old_attributes(root.path, root.attributes)
    if not old:
        return []
    content = json.loads(root.content)
    content["attributes"] |= old
    set_aside.replace(root.path, root.path / FILE, copies.as_bytes(content))
    return [f"restored {', '.join(sorted(old))} of the manifest from its copy"]


def _old_root(path: Path) -> bytes | None:
    """The copy of the root that a store of 0.1 has, if that is whole."""
    content = copies.as_bytes(copies.read_old(path, "root.json"))
    try:
        of_content(path, content)
    except ValueError:
        return None
    return content


def _rebuilt(path: Path, lost: Lost) -> dict[str, Any]:
    """A root from the arrays' own metadata, the prompts, and what the user knows."""
    if lost.model is None:
        raise OptionError(
            f"{path} has lost its manifest and the copy of it; say what it was built with, by ",
            *(Option("model"), ", and by ", Option("cfg_weight"), " and ", Option("batch_size")),
            " where they were not the defaults",
        )
    entry = registry.find(lost.model)
    try:
        with codec_errors_named():
            arrays = {
                variable.name: copies.parse(path / variable.name / FILE)
                for variable in schema.BUILD_VARIABLES
            }
            plan = _plan_of_remains(path, arrays, entry, lost)
    except StoreError as error:
        raise StoreError(
            f"{path} has lost its manifest, and what would tell it cannot be read: {error}"
        ) from error
    model = registry.load(plan.entry.name)
    _prove(plan, model, arrays[schema.LATENTS.name])
    attributes = {
        "format": schema.FORMAT,
        "format_version": schema.FORMAT_VERSION,
        **builder.manifest(plan, model),
        "libraries": {},  # not known
    }
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": attributes,
        "consolidated_metadata": consolidated(dict(sorted(arrays.items()))),
    }


def _plan_of_remains(
    path: Path, arrays: dict[str, Any], entry: ModelEntry, lost: Lost
) -> BuildPlan:
    """The plan that a store was built by, as its arrays tell, and the user or defaults."""
    latents = arrays[schema.LATENTS.name]
    num_images, num_states, *_ = latents["shape"]
    texts, seeds = (
        np.asarray(zarr.open_array(path / variable.name, mode="r")[:num_images]).tolist()
        for variable in (schema.PROMPT, schema.SEED)
    )
    built_in = entry.prompts() if entry.prompts else None
    is_built_in = built_in is not None and tuple(texts) == built_in.prompts[: len(texts)]
    attributes = {
        "model": entry.name,
        "num_steps": num_states - 1,
        "cfg_weight": entry.cfg_weight if lost.cfg_weight is None else float(lost.cfg_weight),
        "guidance": entry.guidance,
        "seed": seeds[0] if (np.diff(seeds) == 1).all() else 0,
        "image_size": arrays[schema.DECODED.name]["shape"][1],
        "batch_size": lost.batch_size,
        "latent_dtype": latents["data_type"],
        "prompt_source": built_in.source if built_in and is_built_in else "unknown",
    }
    return plan_of(path, attributes, texts, seeds)


def _prove(plan: BuildPlan, model: Model, metadata: dict[str, Any]) -> None:
    """Check that a guessed plan makes the first image that is there.

    Raises:
        StoreError: if not.
    """
    images = np.flatnonzero(store.completed(plan.path, plan.num_images))[:1].tolist()
    if not images:
        return
    (states,) = shards.read_states(plan.path, metadata, images)
    schedule = model.schedule(plan.settings.num_steps)
    encode = builder.encoder(plan, model, images)
    (made,) = builder.sample_group(plan, images, model, schedule, encode, Silent())
    final = states[-1].astype(np.float32)
    if not np.abs(made[-1] - final).max() <= _PROOF * np.abs(final).max():
        raise StoreError(
            f"{plan.path} has lost its manifest, and image {images[0]} is not what {model.name} "
            f"makes with guidance weight {plan.settings.cfg_weight} at batch size "
            f"{plan.settings.batch_size}; give the right ",
            *(Option("model"), ", ", Option("cfg_weight"), " and ", Option("batch_size")),
        )

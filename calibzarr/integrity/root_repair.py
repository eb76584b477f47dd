"""Putting the root of a store in order: from its copy, or from what else tells."""

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
from calibzarr.sampling.options import Settings
from calibzarr.sampling.plan import BuildPlan
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
    found = {name: _root(path, name) for name in (FILE, copies.ROOT_COPY)}
    whole = {name: root for name, root in found.items() if root is not None}
    root, copy = (whole.get(name) for name in (FILE, copies.ROOT_COPY))
    if root is None and copy is None:
        content = _old_root(path)
        if content is None:
            content = copies.as_bytes(_rebuilt(path, lost))
            done.append("rebuilt the manifest from the arrays and the model")
        else:
            done.append("restored the manifest from its copy")
        set_aside.move(path, path / copies.ROOT_COPY)
        return [*done, *_replace(path, FILE, content)]
    if root is not None and not root.indexed and copy is None:
        return done  # of 0.1
    right = max(whole.values(), key=lambda one: one.attributes[copies.ATTRIBUTE]["generation"])
    if right is copy and (root is None or _differ(root, copy)):
        _replace(path, FILE, copies.as_bytes(_with_users_own(copy, path)))
        return [*done, "restored the root's metadata from their copy"]
    if copy is None or _differ(right, copy):
        _replace(path, copies.ROOT_COPY, right.content)
        done.append("kept a copy of the root's metadata")
    return done


def _make_folders(path: Path) -> list[str]:
    """Folders of the variables of a build, to be filled again."""
    done = []
    names = {variable.name for variable in schema.BUILD_VARIABLES} | {copies.FOLDER}
    names |= {file.partition("/")[0] for file in copies.read_coordinates(path)} & schema.NAMES
    for name in sorted(names):
        folder = path / name
        if folder.is_dir() or (name == copies.FOLDER and not os.path.lexists(folder)):
            continue
        if os.path.lexists(folder) and name == schema.LATENTS.name:
            raise StoreError(f"{folder} is no folder; move it elsewhere")
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


def _differ(root: Root, copy: Root) -> bool:
    """Whether they say other things of calibzarr's own."""
    return bool(root.attributes[copies.ATTRIBUTE] != copy.attributes[copies.ATTRIBUTE])


def _replace(path: Path, file: str, content: bytes) -> list[str]:
    """Write a file in the place of a damaged one, which is kept."""
    target = path / file
    if not (target.is_file() and set_aside.copy(path, target)):
        set_aside.move(path, target)  # what is no file
    durable.write(target, content)
    return []


def _with_users_own(copy: Root, path: Path) -> dict[str, Any]:
    """A root as its copy has it, and the user's own variables as the damaged one lists them."""
    root = copies.parsed(copy.content)
    listed = root["consolidated_metadata"]["metadata"]
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        damaged = copies.parse(path / FILE)["consolidated_metadata"]["metadata"]
        for name, metadata in damaged.items():
            if name not in schema.NAMES and (path / name / FILE).exists():
                ArrayV3Metadata.from_dict(dict(metadata))
                listed[name] = metadata
    return root


def _old_root(path: Path) -> bytes | None:
    """The copy of the root that a store of 0.1 has, if that is whole."""
    content = copies.as_bytes(copies.read_old(path, "root.json"))
    try:
        of_content(path, content)
    except ValueError:
        return None
    return content


def _stored(path: Path, name: str) -> dict[str, Any] | None:
    """An array's own metadata, beside its chunks."""
    try:
        return copies.parse(path / name / FILE)
    except (OSError, StoreError):
        return None


def _rebuilt(path: Path, lost: Lost) -> dict[str, Any]:
    """A root from the arrays' own metadata, the prompts, and what the user knows."""
    if lost.model is None:
        raise OptionError(
            f"{path} has lost its manifest and the copy of it; say what it was built with, by ",
            *(Option("model"), ", and by ", Option("cfg_weight"), " and ", Option("batch_size")),
            " where they were not the defaults",
        )
    plan = _plan_of_remains(path, registry.find(lost.model), lost)
    model = registry.load(plan.entry.name)
    _prove(plan, model)
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
        "consolidated_metadata": consolidated(
            {
                name: stored
                for name in sorted(schema.NAMES)
                if (stored := _stored(path, name)) is not None
                and name in {variable.name for variable in schema.BUILD_VARIABLES}
            }
        ),
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

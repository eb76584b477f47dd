"""Putting a store's metadata in order: the manifest, and what describes the arrays."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from calibzarr.errors import OptionError
from calibzarr.integrity import metadata_checks, set_aside
from calibzarr.integrity.metadata_checks import attribute_errors, manifest_errors, wanted_metadata
from calibzarr.models import registry
from calibzarr.models.base import Model
from calibzarr.progress import Silent
from calibzarr.prompts.lists import shape_captions
from calibzarr.sampling import builder
from calibzarr.sampling.plan import plan_of
from calibzarr.storage import backup, durable, schema, shards, store
from calibzarr.storage.manifest import made_by, prompts_sha256, write_root

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
    manifest_errors(path)  # refuses what is no store, or a newer one
    root, copy = metadata_checks.read(path / "zarr.json"), backup.read_root(path)
    done = []
    attributes = _dictionary(root, "attributes")
    if attribute_errors(attributes, copy):
        if copy is not None and not attribute_errors(copy["attributes"], copy):
            attributes = copy["attributes"]
            done.append("restored the manifest from its copy")
        else:
            attributes = _rebuilt(path, lost)
            done.append("rebuilt the manifest from the arrays and the model")
    listed = _listed(root)
    chosen = _choose_metadata(path, attributes, listed, copy)
    broken = [name for name, right in chosen.items() if not _says(_own(path, name), right)]
    for name in broken:
        set_aside.copy(path, path / name / "zarr.json")
        durable.write(path / name / "zarr.json", json.dumps(chosen[name], indent=2).encode())
    if broken:
        done.append(f"restored the metadata of {', '.join(broken)}")
    unlisted = [name for name, right in chosen.items() if listed.get(name) != right]
    if done or unlisted or set(listed) != set(chosen):
        new = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": attributes,
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                "metadata": dict(sorted(chosen.items())),
            },
        }
        if new != root:
            set_aside.copy(path, path / "zarr.json")
            write_root(path, new)
            done.append("consolidated the metadata in the root")
    if backup.read_root(path) is None:
        backup.write_root(path, metadata_checks.read(path / "zarr.json") or {})
        done.append("kept a copy of the root's metadata")
    return done


def _own(path: Path, name: str) -> dict[str, Any] | None:
    return metadata_checks.read(path / name / "zarr.json")


def _says(own: dict[str, Any] | None, right: dict[str, Any]) -> bool:
    """Whether an array's own metadata are right, or those of an unfinished extension."""
    sizes = dict(zip(right["dimension_names"], right["shape"], strict=True))
    if own is not None and "image" in sizes:
        own = metadata_checks.cut(own, sizes["image"])
    return metadata_checks.difference(own, right) is None and (
        metadata_checks.checksummed(own or {}) == metadata_checks.checksummed(right)
    )


def _dictionary(container: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    value = (container or {}).get(name)
    return value if isinstance(value, dict) else {}


def _listed(root: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metadata of the arrays in a root, as far as they are of the right form."""
    metadata = _dictionary(_dictionary(root, "consolidated_metadata"), "metadata")
    return {name: own for name, own in metadata.items() if isinstance(own, dict)}


def _choose_metadata(
    path: Path, attributes: dict[str, Any], listed: dict[str, Any], copy: dict[str, Any] | None
) -> dict[str, Any]:
    """The right metadata of every array, by name."""
    names = [variable.name for variable in schema.BUILD_VARIABLES]
    if metadata_checks.has_statistics(attributes):
        names += [variable.name for variable in schema.COLLECTED_VARIABLES]
    candidates = {
        name: [
            metadata_checks.cut(each, attributes["num_images"])
            for each in (listed.get(name), _own(path, name), _listed(copy).get(name))
            if each is not None
        ]
        for name in names
    }
    for place in range(3):  # some sizes only arrays tell: from the first place where they fit
        known = {name: each[min(place, len(each) - 1)] for name, each in candidates.items() if each}
        wanted, errors = wanted_metadata(attributes, known)
        if not errors:
            break
    else:
        raise ValueError(f"{path} is damaged: {errors[0]}, and no copy tells")
    checksums = all(metadata_checks.checksummed(each) for each in candidates[schema.LATENTS.name])
    chosen = {}
    for name, expected in wanted.items():
        right = [
            each for each in candidates[name] if metadata_checks.difference(each, expected) is None
        ]
        chosen[name] = right[0] if right else _new(expected, checksums=checksums)
    return chosen


def _new(expected: dict[str, Any], *, checksums: bool) -> dict[str, Any]:
    """Metadata as the schema has them, in a store whose chunks have checksums or have none."""
    if checksums:
        return expected
    codecs = [codec for codec in expected["codecs"] if codec.get("name") != "crc32c"]
    for codec in codecs:
        inner = codec.get("configuration", {}).get("codecs")
        if inner:
            inner[:] = [own for own in inner if own.get("name") != "crc32c"]
    return {**expected, "codecs": codecs}


def _rebuilt(path: Path, lost: Lost) -> dict[str, Any]:
    """A manifest from the arrays' own metadata, the prompts, and what the user knows."""
    if lost.model is None:
        raise OptionError(
            f"{path} has lost its manifest and the copy of it; say what it was built with, by "
            f"--model, and by --cfg-weight and --batch-size where they were not the defaults"
        )
    entry = registry.find(lost.model)
    try:
        shapes = {
            variable.name: metadata_checks.read(path / variable.name / "zarr.json") or {}
            for variable in (schema.LATENTS, schema.DECODED)
        }
        num_images, num_states, *_ = shapes[schema.LATENTS.name]["shape"]
        latent_dtype = shapes[schema.LATENTS.name]["data_type"]
        image_size = shapes[schema.DECODED.name]["shape"][1]
        prompts, seeds = (
            np.asarray(zarr.open_array(path / variable.name, mode="r")[:num_images])
            for variable in (schema.PROMPT, schema.SEED)
        )
    except Exception as error:  # whatever zarr raises
        raise ValueError(
            f"{path} has lost its manifest, and what would tell it cannot be read: {error}"
        ) from error
    texts, numbers = [str(prompt) for prompt in prompts], [int(seed) for seed in seeds]
    model = registry.load(entry.name)
    built_in = shape_captions()
    own = texts == list(built_in.prompts[: len(texts)])
    attributes = {
        "format": schema.FORMAT,
        "format_version": schema.FORMAT_VERSION,
        "model": entry.name,
        "model_fingerprint": model.fingerprint,
        "num_images": num_images,
        "num_steps": num_states - 1,
        "cfg_weight": entry.cfg_weight if lost.cfg_weight is None else float(lost.cfg_weight),
        "image_size": image_size,
        "latent_dtype": latent_dtype,
        "activation_dtype": model.activation_dtype,
        "sampler": model.sampler,
        "noise": entry.noise.name,
        "schedule": entry.schedule.name,
        "seed": numbers[0] if (np.diff(numbers) == 1).all() else 0,
        "batch_size": lost.batch_size or 1,
        "prompts_sha256": prompts_sha256(texts),
        "prompt_source": built_in.source if own else "unknown",
        **made_by(()),
        "n_completed": 0,
    }
    _prove(path, attributes, shapes[schema.LATENTS.name], texts, numbers, model)
    return attributes


def _prove(
    path: Path,
    attributes: dict[str, Any],
    latents: dict[str, Any],
    prompts: list[str],
    seeds: list[int],
    model: Model,
) -> None:
    """Check that a guessed manifest makes the first image that is there.

    Raises:
        ValueError: if not.
    """
    images = np.flatnonzero(store.completed(path, len(prompts))).tolist()
    if not images:
        return
    (states,) = shards.read_states(path, latents, images[:1])
    plan = plan_of(path, attributes, prompts, seeds)
    schedule = model.schedule(attributes["num_steps"])
    (made,) = builder.sample_group(plan, images[:1], model, schedule, Silent())
    final = states[-1].astype(np.float32)
    if not np.abs(made[-1] - final).max() <= _PROOF * np.abs(final).max():
        raise ValueError(
            f"{path} has lost its manifest, and image {images[0]} is not what {model.name} makes "
            f"with guidance weight {attributes['cfg_weight']} at batch size "
            f"{attributes['batch_size']}; give the right --model, --cfg-weight and --batch-size"
        )

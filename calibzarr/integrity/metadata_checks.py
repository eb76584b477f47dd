"""Whether a store's manifest and the metadata of its arrays say what they must."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import MemoryStore

from calibzarr.models import registry
from calibzarr.statistics.histogram import LogBins
from calibzarr.storage import arrays, backup, schema, store
from calibzarr.storage.manifest import FILE, Root, read_root
from calibzarr.storage.variable import Addition, Variable

_BUILD = tuple(variable.name for variable in schema.BUILD_VARIABLES)
_DECISIVE = (
    "zarr_format",
    "node_type",
    "shape",
    "data_type",
    "dimension_names",
    "chunk_grid",
    "chunk_key_encoding",
    "fill_value",
)
_FREE = ("level", "clevel", "cname", "shuffle", "typesize", "blocksize", "checksum")
"""Configuration of codecs that a reader does not need."""


def has(attributes: Mapping[str, Any], addition: Addition) -> bool:
    """Whether a manifest says that there is an addition."""
    return attributes.get(addition.attribute) is not None


def checked_root(path: Path) -> tuple[Root | None, list[str]]:
    """What a store's root says, and what is wrong with its attributes, in words.

    Returns:
        None for a root that cannot be used at all; and the errors.

    Raises:
        FileNotFoundError: if nothing is at ``path``.
        ValueError: if it is no calibzarr store, or of a format that this version cannot read.
    """
    copy = backup.read_root(path)
    try:
        root = read_root(path)
    except ValueError as error:
        if _is_newer(read(path / FILE), copy) or not _looks_like_a_store(path):
            raise
        return None, [str(error)]
    return root, attribute_errors(root.attributes, copy)


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


def _is_newer(root: dict[str, Any] | None, copy: dict[str, Any] | None) -> bool:
    """Whether a root says another format version, and its copy does not contradict it."""
    version = _format_version(root)
    if version in (None, schema.FORMAT_VERSION):
        return False
    return copy is None or version == _format_version(copy)


def _format_version(root: dict[str, Any] | None) -> Any:
    attributes = (root or {}).get("attributes")
    return attributes.get("format_version") if isinstance(attributes, dict) else None


def _looks_like_a_store(path: Path) -> bool:
    """Whether a directory holds variables of a build, whatever else is wrong with it."""
    return any((path / name).is_dir() for name in _BUILD)


def metadata_errors(root: Root) -> tuple[list[str], list[str]]:
    """What is wrong with the metadata of the arrays, in the root and of their own, in words.

    Args:
        root: of the store, its attributes without errors.
    """
    wanted, in_root = wanted_metadata(root.attributes, root.arrays)
    of_arrays = []
    for name, metadata in wanted.items():
        stored, listed = read(root.path / name / FILE), root.arrays.get(name)
        wrong = difference(listed, metadata)
        if wrong is not None:
            in_root.append(f"{name}, in the root's metadata: {wrong}")
        wrong = difference(cut_like(stored, metadata), metadata)
        if wrong is None and checksummed(listed or {}) != checksummed(stored or {}):
            wrong = "its codecs are not those in the root's metadata"
        if wrong is not None:
            of_arrays.append(f"{name}, metadata of its own: {wrong}")
    return in_root, of_arrays


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
    entry = registry.find_if_known(attributes["model"])
    if entry is not None:
        latent_shape = entry.latent_shape(attributes["image_size"])
    if len(latent_shape) != 3:
        return {}, ["latents, metadata in the root: they have no shape"]
    sizes = _build_sizes(attributes, latent_shape)
    variables = schema.build_variables(attributes)
    wanted = _as_created(variables, sizes, attributes["latent_dtype"])
    errors = []
    for addition in schema.ADDITIONS:
        if not has(attributes, addition):
            continue
        variables = addition.variables
        if addition is schema.COLLECTION:
            variables = schema.collected_variables(published)
        try:
            if addition is schema.COLLECTION:
                sizes.update(_statistics_sizes(attributes))
            sizes = {**_sizes_of(addition, published), **sizes}  # those before say how many layers
            wanted.update(_as_created(variables, sizes))
        except (KeyError, TypeError, ValueError) as error:
            errors.append(f"the sizes of the {addition.title} are not known: {error!r}")
    return wanted, errors


def _build_sizes(attributes: Mapping[str, Any], latent_shape: Sequence[int]) -> dict[str, int]:
    """Every dimension of the build's variables with its size.

    Args:
        attributes: the manifest.
        latent_shape: (channel, height, width).
    """
    channel, height, width = latent_shape
    return store.Sizes(
        attributes["num_images"],
        attributes["num_steps"],
        (channel, height, width),
        attributes["image_size"],
    ).by_dimension


def _statistics_sizes(attributes: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of dimensions of the statistics that their attribute tells."""
    activations = attributes[schema.ACTIVATIONS]
    return {"layer": activations["num_layers"], "bin": LogBins(**activations["bins"]).count}


def _sizes_of(addition: Addition, published: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of dimensions as most arrays of an addition have them."""
    found = Counter(
        (dim, size)
        for variable in addition.variables
        if isinstance(shape := (published.get(variable.name) or {}).get("shape"), list)
        for dim, size in zip(variable.dims, shape, strict=False)
        if isinstance(size, int)
    )
    return dict(pair for pair, _ in reversed(found.most_common()))


def _as_created(
    variables: Sequence[Variable],
    sizes: Mapping[str, int],
    latent_dtype: str = "float32",
) -> dict[str, dict[str, Any]]:
    """Metadata of arrays as this version creates them, by name.

    Args:
        variables: of the schema; those of a build, or those of an addition.
        sizes: of every dimension that they have.
        latent_dtype: dtype of ``latents``.
    """
    files: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(files), zarr_format=3)
    arrays.create(group, variables, sizes, latent_dtype)
    return {
        variable.name: json.loads(files[f"{variable.name}/zarr.json"].to_bytes())
        for variable in variables
    }


def read(path: Path) -> dict[str, Any] | None:
    """The metadata in a ``zarr.json``; None where there are none that can be read."""
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return metadata if isinstance(metadata, dict) else None


def difference(actual: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> str | None:
    """What of an array's metadata is not as it must be, in words; None if all is well.

    Whether chunks have checksums, and how hard they are compressed, does not matter.
    """
    if actual is None:
        return "they are missing or cannot be read"
    first, second = _decisive(actual), _decisive(wanted)
    for name, value in second.items():
        if first.get(name) != value:
            return f"its {name} is {first.get(name)}, not {value}"
    attributes = actual.get("attributes")
    for name, value in wanted.get("attributes", {}).items():
        if not isinstance(attributes, dict) or attributes.get(name) != value:
            return f"its attribute {name!r} is not {value!r}"
    return None


def cut_like(metadata: dict[str, Any] | None, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Metadata with no more images than others; those of an unfinished extension have more."""
    sizes = dict(zip(wanted.get("dimension_names", ()), wanted["shape"], strict=True))
    return cut(metadata, sizes["image"]) if metadata and "image" in sizes else metadata


def cut(metadata: dict[str, Any], num_images: int) -> dict[str, Any]:
    """Metadata with more images, as an unfinished extension leaves them, as they were before it."""
    names, shape = metadata.get("dimension_names"), metadata.get("shape")
    if not (isinstance(names, list) and isinstance(shape, list) and len(names) == len(shape)):
        return metadata
    sizes = dict(zip(map(str, names), shape, strict=True))
    if not (isinstance(sizes.get("image"), int) and sizes["image"] > num_images):
        return metadata
    return {**metadata, "shape": list({**sizes, "image": num_images}.values())}


def checksummed(metadata: Mapping[str, Any]) -> bool:
    """Whether the chunks that these metadata describe end with a checksum."""
    return "crc32c" in json.dumps(_inner(metadata.get("codecs")))


def _inner(codecs: Any) -> Any:
    """The codecs of the chunks themselves, without those of a shard's index."""
    try:
        return codecs[0]["configuration"]["codecs"]
    except (KeyError, IndexError, TypeError):
        return codecs


def _decisive(metadata: Mapping[str, Any]) -> dict[str, Any]:
    codecs = metadata.get("codecs")
    return {
        **{name: metadata.get(name) for name in _DECISIVE},
        "codecs": _codecs(codecs) if isinstance(codecs, list) else codecs,
    }


def _codecs(codecs: list[Any]) -> list[Any]:
    """Codecs without what may differ: the checksum at the end, and how hard they compress."""
    named = [codec if isinstance(codec, dict) else {"name": codec} for codec in codecs]
    result = []
    for codec in named:
        if codec.get("name") == "crc32c" and codec is named[-1]:
            continue
        settings = dict(codec.get("configuration") or {})
        if isinstance(settings.get("codecs"), list):
            settings["codecs"] = _codecs(settings["codecs"])
        free = {name: value for name, value in settings.items() if name not in _FREE}
        result.append({"name": codec.get("name"), "configuration": free})
    return result

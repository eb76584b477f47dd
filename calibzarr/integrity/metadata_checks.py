"""What the metadata of a store's arrays must say, worked out from the schema and the sizes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import MemoryStore

from calibzarr.statistics.histogram import LogBins
from calibzarr.storage import arrays, schema, store

_FREE = ("level", "clevel", "cname", "shuffle", "typesize", "blocksize", "checksum")
"""Configuration of codecs that a reader does not need."""


def sizes(attributes: Mapping[str, Any], latent_shape: Sequence[int]) -> dict[str, int]:
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


def statistics_sizes(
    attributes: Mapping[str, Any], features: int, build: Mapping[str, int]
) -> dict[str, int]:
    """Every dimension of the statistics with its size.

    Args:
        attributes: the manifest.
        features: width of the widest layer.
        build: sizes of the build's dimensions.
    """
    activations = attributes["activations"]
    own = {
        "layer": activations["num_layers"],
        "bin": LogBins(**activations["bins"]).count,
        "feature": features,
    }
    return {**build, **own}


def expected(
    variables: Sequence[schema.Variable],
    sizes: Mapping[str, int],
    latent_dtype: str = "float32",
    checksums: bool = True,
) -> dict[str, dict[str, Any]]:
    """Metadata of arrays as this version creates them, by name.

    Args:
        variables: of the schema; those of a build, or those of a collection.
        sizes: of every dimension that they have.
        latent_dtype: dtype of ``latents``.
        checksums: whether every chunk ends with one.
    """
    files: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(files), zarr_format=3)
    arrays.create(group, variables, sizes, latent_dtype, checksums)
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
    texts = wanted.get("attributes", {})
    own = actual.get("attributes")
    for name, value in texts.items():
        if not isinstance(own, dict) or own.get(name) != value:
            return f"its attribute {name!r} is not {value!r}"
    return None


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
    names = ("zarr_format", "node_type", "shape", "data_type", "dimension_names", "chunk_grid")
    more = ("chunk_key_encoding", "fill_value")
    codecs = metadata.get("codecs")
    return {
        **{name: metadata.get(name) for name in (*names, *more)},
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

"""Runs: the images of a reference, made again by a quantized model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from calibzarr.errors import Option, OptionError, StoreError
from calibzarr.models.base import Schedule
from calibzarr.models.quantized import layout
from calibzarr.quantization import configuration as configurations
from calibzarr.quantization.configuration import Configuration
from calibzarr.sampling.options import BuildOptions
from calibzarr.storage import manifest, schema, store
from calibzarr.storage.manifest import Root, read_root

_CHOSEN = ("reference", "quantized", "resume", "images")  # all else is the reference's
_SIGMA_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Run:
    """Of which reference a store is a run, and by what its model is quantized.

    Attributes:
        reference: ``fingerprint`` and ``path`` of the store whose images are made again.
        quantized: ``kind``, ``sha256`` and ``path`` of what the model is quantized by.
        configuration: that it is quantized by; None where that is a checkpoint.
        source: the reference as it is now; None where a run goes on, which needs none.
    """

    reference: Mapping[str, Any]
    quantized: Mapping[str, Any]
    configuration: Configuration | None
    source: Root | None = None

    @property
    def text(self) -> str | None:
        """What the store holds of the configuration: its phases and layers stay in their order."""
        if self.configuration is None:
            return None
        return json.dumps(self.configuration.content, separators=(",", ":"), allow_nan=False)

    @property
    def attributes(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {schema.REFERENCE: dict(self.reference), schema.QUANTIZED: dict(self.quantized)}


def identity(attributes: Mapping[str, Any]) -> dict[str, str]:
    """What decides a run beside the model and its settings; of the names of options.

    Args:
        attributes: the manifest of a store, or :attr:`Run.attributes`.
    """
    names = {schema.REFERENCE: "fingerprint", schema.QUANTIZED: "sha256"}
    return {name: (attributes.get(name) or {}).get(key, "") for name, key in names.items()}


def stored(root: Root) -> Run | None:
    """What a store says of itself as a run; None if it is none.

    Raises:
        StoreError: if it is a run of a kind that is not known here, or is damaged.
    """
    quantized = root.attributes.get(schema.QUANTIZED)
    if quantized is None:
        return None
    if quantized["kind"] == schema.BY_CHECKPOINT:
        return Run(root.attributes[schema.REFERENCE], quantized, None)
    if quantized["kind"] != schema.BY_CONFIGURATION:
        raise StoreError(
            f"{root.path} was made by a model that was quantized by a {quantized['kind']}, which "
            "this calibzarr does not know. Upgrade calibzarr"
        )
    name = schema.QUANTIZATION_CONFIG.name
    try:
        text = str(store.array(store.open_group(root, mode="r"), name)[()])
        configuration = configurations.parse(json.loads(text))
    except (ValueError, RuntimeError) as error:
        raise StoreError(f"{root.path} is damaged: its {name} cannot be read: {error}") from error
    if configuration.sha256 != quantized["sha256"]:
        raise StoreError(f"{root.path} is damaged: its {name} is not the one it was begun with")
    return Run(root.attributes[schema.REFERENCE], quantized, configuration)


def check_options(options: BuildOptions) -> None:
    """Check that nothing is chosen that the reference decides.

    Raises:
        OptionError: if something is, or if one of reference and configuration is missing.
    """
    for option in fields(options):
        if option.name not in _CHOSEN and getattr(options, option.name) != option.default:
            raise OptionError(
                Option(option.name),
                f" is the reference's, got {getattr(options, option.name)!r}; beside ",
                *(Option("reference"), " and ", Option("quantized"), ", only "),
                *(Option("images"), " and ", Option("resume"), " can be given"),
            )
    for given, missing in (("reference", "quantized"), ("quantized", "reference")):
        if getattr(options, given) is not None and getattr(options, missing) is None:
            raise OptionError(
                *(Option(given), " needs ", Option(missing)),
                ": a run is the images of a reference, made by a quantized model",
            )


def of(reference: Path, quantized: str | Path | Configuration) -> Run:
    """What a run of a reference, by a configuration, its file or a checkpoint, is to be.

    Raises:
        StoreError: if the reference or the configuration cannot be used, or the one is not for
            the other.
        OSError: if they cannot be read.
    """
    root = read_root(reference)
    if schema.QUANTIZED in root.attributes:
        of_it = root.attributes[schema.REFERENCE]["path"]
        raise StoreError(
            f"{reference} is a run of a quantized model itself, whose reference is {of_it}; give "
            "that one by ",
            Option("reference"),
        )
    manifest.check_known(reference, root.attributes)
    known = root.attributes
    prompts, seeds = store.stored_prompts(root)
    configuration, fitted = None, {}
    if not isinstance(quantized, Configuration) and Path(quantized).is_dir():
        kind, sha256 = schema.BY_CHECKPOINT, _checkpoint(Path(quantized), known)
        fitted = _fitted(layout.read_config(Path(quantized)), known, prompts, seeds)
    else:
        configuration = (
            quantized
            if isinstance(quantized, Configuration)
            else configurations.read(Path(quantized))
        )
        of_no_layer = replace(configuration, layers=())  # not known before a model is loaded
        configurations.check_model(of_no_layer, (), known["model_fingerprint"], known["model"])
        kind, sha256 = schema.BY_CONFIGURATION, configuration.sha256
    path = None if isinstance(quantized, Configuration) else str(quantized)
    return Run(
        reference={
            "fingerprint": manifest.fingerprint(known, prompts, seeds),
            "path": str(reference),
        },
        quantized={"kind": kind, "sha256": sha256, "path": path, **fitted},
        configuration=configuration,
        source=root,
    )


def _fitted(
    config: Mapping[str, Any],
    reference: Mapping[str, Any],
    prompts: Sequence[str],
    seeds: Sequence[int],
) -> dict[str, list[int]]:
    """Which images of a reference, which may have grown since, a checkpoint was fitted to."""
    source, images = config.get("store"), config.get("fitted_images")
    if not (source and images):
        return {}
    count = source["num_images"]
    if source["fingerprint"] != manifest.fingerprint(reference, prompts[:count], seeds[:count]):
        return {}
    return {schema.FITTED_IMAGES: images}


def _checkpoint(directory: Path, reference: Mapping[str, Any]) -> str:
    """SHA-256 of a checkpoint that is of a reference's model.

    Raises:
        StoreError: if it is none, or of another model.
    """
    config = layout.read_config(directory)
    for name in ("model", "model_fingerprint"):
        if config.get(name) != reference[name] is not None:
            raise StoreError(
                f"{directory} was quantized from {name} {config.get(name)!r}, and the reference "
                f"has {reference[name]!r}"
            )
    return layout.sha256(directory)


def check_source(source: Root, attributes: Mapping[str, Any], schedule: Schedule) -> None:
    """Check that a model is the one that made a reference, as far as that says.

    Args:
        source: the reference.
        attributes: the manifest of a run of the model with it.
        schedule: of the model.

    Raises:
        StoreError: if not, naming what differs and both values.
    """
    for name in (*schema.FINGERPRINT, *schema.FORMULAS):
        known = source.attributes.get(name)
        if known not in (None, attributes[name]):
            raise StoreError(
                f"{source.path} was built with {name} {known!r}, but {attributes['model']} now has "
                f"{attributes[name]!r}; put the old weights back, or build another reference"
            )
    sigma = np.asarray(store.array(store.open_group(source, mode="r"), schema.SIGMA.name)[:])
    if not np.allclose(sigma, schedule.sigma, rtol=0, atol=_SIGMA_TOLERANCE):
        raise StoreError(f"{source.path} has other noise levels than {attributes['model']} has")

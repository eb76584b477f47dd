"""Whether the sensitivities of a store fit each other, step by step, and how they were measured."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import zarr

from calibzarr.errors import StoreError
from calibzarr.integrity.findings import Tally
from calibzarr.integrity.opened import codec_errors_named
from calibzarr.quantization.choices import CLIPS
from calibzarr.quantization.quantizers import QUANTIZERS, Quantizer
from calibzarr.quantization.sensitivity import amplification, sensitivity
from calibzarr.storage import schema, store

_CHECK = "sensitivities"
_PRODUCTS = "signed_product"  # the others are small
_ROUNDING = 1e-5  # of float32, and of sums in another order; relative
_LEAST_DB = 1e-4  # of standard errors: of samples that are all but equal they are rounding
_KINDS = ("activation", "weight")


def check(group: zarr.Group, attributes: Mapping[str, Any], complete: np.ndarray) -> Tally:
    """Check the sensitivities of a store.

    They need no statistics: those that they were measured with may be replaced or set aside.

    Args:
        group: its root group.
        attributes: its manifest, with sensitivities.
        complete: which images are complete, shape (image,).
    """
    tally = Tally()
    try:
        with codec_errors_named():  # of an attribute that is no object, too
            small = {
                variable.name: np.asarray(store.array(group, variable.name)[:])
                for variable in schema.SENSITIVITY_VARIABLES
                if variable.name != _PRODUCTS
            }
            about = attributes[schema.SENSITIVITY]
            errors = [
                *_lost_chunks(group),
                *_description_errors(about, attributes),
                *_extent_errors(small, about, attributes["num_steps"], len(complete)),
                *_quantizer_errors(small),
                *_range_errors(small),
                *_amplification_errors(small["amplification"], about["amplification"]),
            ]
    except StoreError as error:
        tally.record(_CHECK, [f"they cannot be read: {error}"])
        return tally
    tally.record(_CHECK, errors)
    for image in np.flatnonzero(~complete):
        if image in small["sensitivity_image"]:
            tally.record(_CHECK, ["they were measured with it, but it is not complete"], int(image))
    for index, step in enumerate(small["sensitivity_step"].tolist()):
        try:
            with codec_errors_named():
                products = np.asarray(store.array(group, _PRODUCTS)[:, index])
        except StoreError as error:
            tally.record(_CHECK, [f"those of step {step} cannot be read: {error}"])
            continue
        errors = [f"step {step}: {error}" for error in _step_errors(products, small, index)]
        tally.record(_CHECK, errors)
    return tally


def _lost_chunks(group: zarr.Group) -> Iterator[str]:
    """All chunks are written; what is not there would be read as fill values."""
    for variable in schema.SENSITIVITY_VARIABLES:
        array = store.array(group, variable.name)
        lost = array.nchunks - array.nchunks_initialized
        if lost > 0:
            yield f"{lost} of {array.nchunks} chunks of {variable.name} are not there"


def _description_errors(about: Mapping[str, Any], attributes: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the attribute ``sensitivity``, but for sizes."""
    if about["clip"] not in CLIPS:
        yield f"their ranges are chosen by {about['clip']!r}, which is not known"
    for name in ("stamp", "statistics"):
        if not isinstance(about[name], str):
            yield f"their {name} is {about[name]!r}"
    collected = attributes.get(schema.ACTIVATIONS)
    for weights in (attributes, collected if isinstance(collected, dict) else {}):
        expected = weights.get("model_fingerprint")
        if expected is not None and about["model_fingerprint"] != expected:
            yield (
                f"they are of weights of fingerprint {about['model_fingerprint']}, "
                f"but the store has {expected}"
            )
            return


def _extent_errors(
    small: Mapping[str, np.ndarray], about: Mapping[str, Any], num_steps: int, num_images: int
) -> Iterator[str]:
    """What is wrong with the steps, images and probes."""
    steps, images, probes = (
        small[name] for name in ("sensitivity_step", "sensitivity_image", "probe")
    )
    if steps.tolist() != list(about["steps"]):
        yield f"sensitivity_step is {steps.tolist()}, not {about['steps']}"
    if (np.diff(steps) <= 0).any() or (steps < 0).any() or (steps >= num_steps).any():
        yield f"sensitivity_step is {steps.tolist()}, which are no calls from 0 to {num_steps - 1}"
    if (
        len(set(images.tolist())) < len(images)
        or (images < 0).any()
        or (images >= num_images).any()
    ):
        yield f"sensitivity_image is {images.tolist()}, which are no images of the store"
    for name, values in (("num_images", images), ("num_probes", probes)):
        if len(values) != about[name]:
            yield f"{name} is {about[name]}, but there are {len(values)}"
    if not np.array_equal(probes, np.arange(len(probes))):
        yield f"probe is {probes.tolist()}"


def _quantizer_errors(small: Mapping[str, np.ndarray]) -> Iterator[str]:
    names = [str(name) for name in small["quantizer"]]
    unknown = [name for name in names if name not in {known.name for known in QUANTIZERS}]
    if unknown:
        yield f"there is no quantizer {unknown[0]!r}"
    if len(set(names)) < len(names):
        yield "a quantizer is there twice"
    columns = (small[f"quantizer_{what}"].tolist() for what in ("kind", "scheme", "bits"))
    for name, column in zip(names, zip(*columns, strict=True), strict=True):
        if Quantizer(*column).name != name:
            yield f"the kind, scheme or bits of quantizer {name!r} are not its own"
            return


def _range_errors(small: Mapping[str, np.ndarray]) -> Iterator[str]:
    low, high = small["sensitivity_clip_min"], small["sensitivity_clip_max"]
    of_activations = small["quantizer_kind"] == "activation"
    by_tensor = small["quantizer_scheme"] == "tensor"
    fitting = np.isfinite(low) & np.isfinite(high) & (low <= high)
    absent = np.isnan(low) & np.isnan(high)
    if not (absent | (fitting & of_activations & by_tensor)).all():
        yield "sensitivity_clip_min and sensitivity_clip_max are no ranges of activations"


def _amplification_errors(values: np.ndarray, rollouts: Mapping[str, Any]) -> Iterator[str]:
    calls = values[:-1]
    if not ((np.isfinite(calls) & (calls >= 0)).all() and calls[-1] == 1 and np.isnan(values[-1])):
        yield "amplification is not finite at calls, 1 at the last, and NaN at the final state"
        return
    expected = amplification(
        len(calls),
        np.array(rollouts["steps"], dtype=int),
        np.array([np.mean(of_images) for of_images in rollouts["values"]]),
    )
    if not _agree(values, expected):
        yield "amplification is not what the measured values come to"


def _step_errors(
    products: np.ndarray, small: Mapping[str, np.ndarray], index: int
) -> Iterator[str]:
    """What contradicts each other at one step.

    Args:
        products: shape (layer, quantizer, image, probe).
        small: the other variables.
        index: of the step among the measured ones.
    """
    power = small["output_power"][index]
    if not (np.isfinite(power) & (power > 0)).all():
        yield "output_power is not a number above 0"
        return
    measured = ~np.isnan(products)
    known = measured.all(axis=(2, 3))
    if np.isinf(products).any() or (measured.any(axis=(2, 3)) != known).any() or not known.any():
        yield f"{_PRODUCTS} has infinite or missing values"
        return
    derived = sensitivity(products[:, None], power[None])
    for kind in _KINDS:
        of_kind = small["quantizer_kind"] == kind
        for suffix, values, least in (
            ("", derived.value, 0.0),
            ("_error", derived.error_db, _LEAST_DB),
        ):
            name = f"{kind}_sensitivity{suffix}"
            expected = np.where(of_kind, values[:, 0], np.nan)
            if not _agree(small[name][:, index], expected, least):
                yield f"{name} does not follow from {_PRODUCTS} and output_power"


def _agree(values: np.ndarray, expected: np.ndarray, least: float = 0.0) -> bool:
    """Whether values are equal but for rounding, or for a difference of ``least``."""
    return bool(np.allclose(values, expected, rtol=_ROUNDING, atol=least, equal_nan=True))

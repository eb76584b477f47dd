"""Signed products as far as they are measured: in memory, in a checkpoint, and in a store."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from calibzarr.collecting import archive
from calibzarr.errors import Call
from calibzarr.quantization.levels import BITS
from calibzarr.quantization.quantizers import QUANTIZERS, Quantizer
from calibzarr.quantization.sensitivity import amplification, sensitivity
from calibzarr.storage import collected, schema, store
from calibzarr.storage.manifest import Root

_CHECKPOINT = "sensitivity.checkpoint"
_BY_TENSOR = [QUANTIZERS.index(Quantizer("activation", "tensor", bits)) for bits in BITS]
_ARRAYS = (
    "products",
    "power",
    "clip_min",
    "clip_max",
    "amplified",
    "decoder_gain_db",
)


@dataclass(frozen=True)
class Measurement:
    """What is known of the layers; NaN where nothing is known yet.

    Attributes:
        images: indices in the store, shape (image,), in the order in which they were added.
        steps: indices of the calls, rising.
        products: shape (layer, step, quantizer, image, probe), float32.
        power: sum of squares of the guided output, shape (step, image), float64.
        clip_min: of activations by tensor, shape (layer, bits), activation units.
        clip_max: likewise.
        amplified_steps: calls whose amplification is measured, rising.
        amplified: share of an error's energy that is left, shape (measured step, image), of the
            first images.
        decoder_gain_db: error of final latents over that of their pictures, of the same shape, dB.
    """

    images: tuple[int, ...]
    steps: tuple[int, ...]
    products: np.ndarray
    power: np.ndarray
    clip_min: np.ndarray
    clip_max: np.ndarray
    amplified_steps: tuple[int, ...]
    amplified: np.ndarray
    decoder_gain_db: np.ndarray

    @classmethod
    def empty(
        cls,
        images: Sequence[int],
        steps: Sequence[int],
        num_probes: int,
        ranges: tuple[np.ndarray, np.ndarray],
        amplified_steps: Sequence[int],
        num_amplified: int,
    ) -> "Measurement":
        """Nothing measured.

        Args:
            images: indices in the store.
            steps: indices of the calls, rising.
            num_probes: probes of each image at each step.
            ranges: lower and upper ends of activations by tensor, each of shape (layer, bits).
            amplified_steps: calls whose amplification is to be measured.
            num_amplified: images that it is measured with.
        """
        shape = (len(ranges[0]), len(steps), len(QUANTIZERS), len(images), num_probes)
        rollouts = np.full((len(amplified_steps), num_amplified), np.nan)
        return cls(
            tuple(images),
            tuple(steps),
            np.full(shape, np.nan, np.float32),
            np.full((len(steps), len(images)), np.nan),
            *ranges,
            tuple(amplified_steps),
            rollouts,
            rollouts.copy(),
        )

    @property
    def ranges(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the ranges of activations by tensor, each of shape (layer, bits)."""
        return self.clip_min, self.clip_max

    def measured(self) -> np.ndarray:
        """Which passes are done, shape (step, image, probe), bool."""
        return np.asarray(~np.isnan(self.products).all(axis=(0, 2)))

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return bool(self.measured().all() and not np.isnan(self.amplified).any())

    def grown(self, images: Sequence[int], num_probes: int) -> "Measurement":
        """The same with room for more images and probes.

        Args:
            images: those that are there, and then new ones.
            num_probes: as many as there are, or more.
        """
        layers, steps, quantizers, num_images, before = self.products.shape
        products = np.full((layers, steps, quantizers, len(images), num_probes), np.nan, np.float32)
        products[..., :num_images, :before] = self.products
        power = np.full((steps, len(images)), np.nan)
        power[:, :num_images] = self.power
        return replace(self, images=tuple(images), products=products, power=power)


def write(path: Path, measurement: Measurement, about: Mapping[str, Any]) -> None:
    """Put a complete measurement into a store, in the place of any that it has.

    Args:
        path: directory of the store.
        measurement: complete.
        about: how it was measured, JSON types only.

    Raises:
        OSError: if it cannot be written; the store then has what it had, or none.
    """
    num_layers, _, _, num_images, num_probes = measurement.products.shape
    num_states = store.array(store.open_group(path, mode="r"), schema.SIGMA.name).shape[0]
    sizes = {
        "layer": num_layers,
        "sensitivity_step": len(measurement.steps),
        "quantizer": len(QUANTIZERS),
        "sensitivity_image": num_images,
        "probe": num_probes,
        "step": num_states,
    }
    rollouts = {
        "steps": list(measurement.amplified_steps),
        "values": measurement.amplified.tolist(),
        "decoder_gain_db": [
            [gain if np.isfinite(gain) else None for gain in gains]  # JSON has no NaN
            for gains in measurement.decoder_gain_db.tolist()
        ],
    }
    values = {
        **_coordinates(measurement),
        **_sensitivities(measurement),
        "signed_product": measurement.products,
        "output_power": measurement.power,
        "amplification": amplification(
            num_states - 1,
            np.array(measurement.amplified_steps, dtype=int),
            measurement.amplified.mean(axis=1),
        ),
    }
    about = {**about, "amplification": rollouts}
    collected.write(path, schema.MEASUREMENT, sizes, values, about)


def _coordinates(measurement: Measurement) -> dict[str, np.ndarray]:
    return {
        "sensitivity_step": np.array(measurement.steps),
        "sensitivity_image": np.array(measurement.images),
        "probe": np.arange(measurement.products.shape[-1]),
        "quantizer": np.array([quantizer.name for quantizer in QUANTIZERS], dtype=object),
        "quantizer_kind": np.array([quantizer.quantizes for quantizer in QUANTIZERS], dtype=object),
        "quantizer_scheme": np.array([quantizer.scheme for quantizer in QUANTIZERS], dtype=object),
        "quantizer_bits": np.array([quantizer.bits for quantizer in QUANTIZERS]),
    }


def _sensitivities(measurement: Measurement) -> dict[str, np.ndarray]:
    """What derives from the products, and the ranges that they were measured with."""
    found = sensitivity(measurement.products, measurement.power)
    kinds = np.array([quantizer.quantizes for quantizer in QUANTIZERS])
    ranges = np.full((2, len(found.value), len(QUANTIZERS)), np.nan, np.float32)
    ranges[..., _BY_TENSOR] = measurement.clip_min, measurement.clip_max
    return {
        **{
            f"{kind}_sensitivity{suffix}": np.where(kinds == kind, values, np.nan)
            for kind in ("activation", "weight")
            for suffix, values in (("", found.value), ("_error", found.error_db))
        },
        "sensitivity_clip_min": ranges[0],
        "sensitivity_clip_max": ranges[1],
    }


def read(path: Path, about: Mapping[str, Any]) -> Measurement:
    """The measurement that a store has.

    Args:
        path: directory of the store.
        about: the attribute that says how it was measured.

    Raises:
        ValueError: if it is of other quantizers.
    """
    group = store.open_group(path, mode="r")

    def values(name: str) -> np.ndarray:
        return np.asarray(store.array(group, name)[:])

    names = [quantizer.name for quantizer in QUANTIZERS]
    if [str(name) for name in values("quantizer")] != names:
        raise ValueError(f"{path} has sensitivities of other quantizers than this calibzarr has")
    rollouts = about["amplification"]
    return Measurement(
        tuple(values("sensitivity_image").tolist()),
        tuple(values("sensitivity_step").tolist()),
        values("signed_product"),
        values("output_power"),
        values("sensitivity_clip_min")[:, _BY_TENSOR],
        values("sensitivity_clip_max")[:, _BY_TENSOR],
        tuple(rollouts["steps"]),
        _of_rollouts(rollouts["values"]),
        _of_rollouts(rollouts["decoder_gain_db"]),
    )


def _of_rollouts(values: list[list[float | None]]) -> np.ndarray:
    """Shape (measured step, image), also without a step."""
    array = np.array(values, dtype=float)
    return array if values else array.reshape(0, 1)


def write_checkpoint(path: Path, measurement: Measurement, identity: Mapping[str, Any]) -> None:
    """Keep what is measured so far, in one file of the store.

    Args:
        path: directory of the store.
        measurement: so far.
        identity: what must be the same for the checkpoint to be gone on with, JSON types only.
    """
    header = {
        "identity": identity,
        "images": measurement.images,
        "steps": measurement.steps,
        "amplified_steps": measurement.amplified_steps,
    }
    archive.write(
        path / _CHECKPOINT, header, {name: getattr(measurement, name) for name in _ARRAYS}
    )


def read_checkpoint(root: Root, identity: Mapping[str, Any]) -> Measurement | None:
    """What an interrupted measurement had; None where there is none, or one of another identity.

    Args:
        root: of a store with statistics.
        identity: what it must be of, JSON types only.

    Raises:
        StoreError: if it is damaged, or not of this store.
    """
    file, again = root.path / _CHECKPOINT, Call("sensitivity", (root.path,), {"force": True})
    with archive.opened(file, archive.remedy(file, again)) as kept:
        if kept is None or kept.field("identity", dict) != json.loads(json.dumps(identity)):
            return None
        images = kept.indices("images", root.num_images)
        steps, amplified_steps = (
            kept.indices(name, root.attributes["num_steps"])
            for name in ("steps", "amplified_steps")
        )
        (num_layers,) = root.arrays["layer"]["shape"]
        num_probes, num_amplified = kept.shape("products", 5)[-1], kept.shape("amplified", 2)[-1]
        ranges, rollouts = (num_layers, len(BITS)), (len(amplified_steps), num_amplified)
        products = num_layers, len(steps), len(QUANTIZERS), len(images), num_probes
        return Measurement(
            images,
            steps,
            kept.array("products", np.float32, products),
            kept.array("power", np.float64, (len(steps), len(images))),
            kept.array("clip_min", np.float32, ranges),
            kept.array("clip_max", np.float32, ranges),
            amplified_steps,
            kept.array("amplified", np.float64, rollouts),
            kept.array("decoder_gain_db", np.float64, rollouts),
        )


def remove_checkpoint(path: Path) -> None:
    """Remove the checkpoint, if there is one."""
    (path / _CHECKPOINT).unlink(missing_ok=True)

"""A calibrated model that judges quantizations, by pictures of captions that are held out."""

import atexit
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np

import calibzarr
from calibzarr.advice.options import Options
from calibzarr.advice.recommendation import of_store
from calibzarr.collecting import measured
from calibzarr.export.configuration import configuration as in_json
from calibzarr.models import registry
from calibzarr.models.base import Conditioning, Model
from calibzarr.models.diffusionkit import DiffusionKitModel
from calibzarr.prompts.lists import shape_captions
from calibzarr.quantization.configuration import Configuration, parse
from calibzarr.quantization.prediction import Measured, Prediction, predict
from calibzarr.quantization.quantizers import Quantizer
from calibzarr.sampling.sampler import euler_states
from calibzarr.storage.manifest import read_root

_IMAGE_SIZE, _CFG_WEIGHT = 64, 3.0
_HELD_OUT, _SEED = 200, 5000  # the first caption and seed that judge; 0 and 0 are calibrated on
_APART = "context_embedder"  # its weight is outside the mean, and the same on both sides
_APART_MLX = Quantizer("weight", "mlx-64", 8)


@dataclass(frozen=True)
class Case:
    """A quantization to judge.

    Attributes:
        way: ``uniform``, ``budget``, or ``phase`` for the budget's allocation by phase.
        weights: quantizer and bits, without scales, of the uniform weights that it costs as much
            as; None for unquantized ones.
        activations: likewise, of inputs.
    """

    way: str
    weights: tuple[str, int] | None = None
    activations: tuple[str, int] | None = None

    def __str__(self) -> str:
        parts = [
            f"{letter}{of[1]} by {of[0]}"
            for letter, of in (("W", self.weights), ("A", self.activations))
            if of
        ]
        return f"{' and '.join(parts)}{', by phase' if self.way == 'phase' else ''}"


class Judge:
    """The embedded model with its sensitivities, and pictures of captions that are held out.

    Args:
        store: a calibrated store.
        num_images: pictures to judge by.
        num_steps: calls of a sampling.
        batch_size: images that are sampled together.
    """

    def __init__(self, store: Path, num_images: int, num_steps: int, batch_size: int) -> None:
        captions = shape_captions().prompts[_HELD_OUT : _HELD_OUT + num_images]
        self.store = store
        self.model = registry.load("tiny")
        self.measured: Measured = measured.read(read_root(store))
        self._schedule = self.model.schedule(num_steps)
        self._batches = [
            (
                self.model.encode(captions[first : first + batch_size], _CFG_WEIGHT),
                range(_SEED + first, _SEED + min(first + batch_size, num_images)),
            )
            for first in range(0, num_images, batch_size)
        ]
        self._psnr_db: dict[Case, np.ndarray] = {}

    @cached_property
    def _reference(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Pictures in full precision, and the states at the measured calls."""
        sampled = [self._sample(self.model, *batch) for batch in self._batches]
        return self._pictures(sampled), [states[self.measured.steps] for states in sampled]

    @cached_property
    def _reference_outputs(self) -> np.ndarray:
        return self._outputs(self.model)

    def _pictures(self, sampled: Sequence[np.ndarray]) -> np.ndarray:
        """Shape (image, row, column, rgb), uint8."""
        return np.stack([self.model.decode(final) for states in sampled for final in states[-1]])

    def _sample(self, model: Model, conditioning: Conditioning, seeds: Sequence[int]) -> np.ndarray:
        """All states, shape (step, image, channel, height, width)."""
        states = euler_states(model, conditioning, self._schedule, seeds, _IMAGE_SIZE)
        return np.stack([model.to_numpy(state) for state in states])

    def _outputs(self, model: Model) -> np.ndarray:
        """Guided outputs at the reference's states, shape (step, image, channel, height, width)."""
        steps = self.measured.steps.tolist()
        outputs = []
        for (conditioning, _), states in zip(self._batches, self._reference[1], strict=True):
            with model.denoiser(conditioning, self._schedule, steps) as denoise:
                outputs.append(
                    [
                        (latents - model.to_numpy(denoise(model.from_numpy(latents), step)))
                        / self._schedule.sigma[step]
                        for step, latents in zip(steps, states, strict=True)
                    ]
                )
        return np.concatenate(outputs, axis=1)

    def _quantized(self, case: Case) -> Model:
        assert isinstance(self.model, DiffusionKitModel)
        return self.model.quantized(self.configuration(case))

    def psnr_db(self, case: Case) -> np.ndarray:
        """Of each picture against that in full precision, shape (image,); sampled once."""
        if case not in self._psnr_db:
            model = self._quantized(case)
            pictures = self._pictures([self._sample(model, *batch) for batch in self._batches])
            error = np.square(pictures.astype(np.float64) - self._reference[0])
            self._psnr_db[case] = 10 * np.log10(255**2 / error.mean(axis=(1, 2, 3)))
        return self._psnr_db[case]

    def output_sqnr_db(self, case: Case) -> float:
        """Of the guided output at the reference's states, mean over the measured calls."""
        exact = self._reference_outputs
        error = np.square(self._outputs(self._quantized(case)) - exact, dtype=np.float64)
        power = np.square(exact, dtype=np.float64)
        return float(np.mean(10 * np.log10(power.sum((1, 2, 3, 4)) / error.sum((1, 2, 3, 4)))))

    def predicted(self, case: Case) -> Prediction:
        """What the sensitivities say of it."""
        return predict(self.measured, self.configuration(case))

    def gain(self, case: Case) -> tuple[float, float]:
        """Mean gain over uniform bits, and its standard error over pictures, dB."""
        gains = self.psnr_db(case) - self.psnr_db(replace(case, way="uniform"))
        error = gains.std(ddof=1) / np.sqrt(gains.size) if gains.size > 1 else np.nan
        return float(gains.mean()), float(error)

    def configuration(self, case: Case) -> Configuration:
        """The configuration of a case: weights of one recommendation, inputs of another."""
        sources = []
        if case.activations is not None:
            quantizer, bits = case.activations
            sources.append(
                self._recommended(
                    method="uniform" if case.way == "uniform" else "budget",
                    activation_bits=bits,
                    activation_quantizer=quantizer,
                )
            )
        if case.weights is not None:
            sources.append(self._weights(*case.weights, case.way))
        layers = [
            replace(
                layer,
                activation=layer.activation if case.activations else None,
                weight=last.weight if case.weights else None,
            )
            for layer, last in zip(sources[0].layers, sources[-1].layers, strict=True)
        ]
        return replace(sources[0], layers=tuple(layers), by_phase=case.way == "phase")

    def _weights(self, quantizer: str, bits: int, way: str) -> Configuration:
        """Weights at uniform bits, or at the bits that cost as much as those."""
        options = {"weight_quantizer": quantizer, "keep": (_APART,)}
        chosen = self._recommended(method="uniform", weight_bits=bits, **options)
        if way != "uniform":
            mean = self.mean_cost(chosen)
            chosen = self._recommended(method="budget", weight_bits=mean, **options)
            assert self.mean_cost(chosen) <= mean * (1 + 1e-9)
        if quantizer != "mlx":
            return chosen
        layers = [
            replace(layer, weight=_APART_MLX) if layer.name == _APART else layer
            for layer in chosen.layers
        ]
        return replace(chosen, layers=tuple(layers))

    def mean_cost(self, chosen: Configuration) -> float:
        """Bits of a weight with scales, over the quantized layers."""
        weights = {layer.name: self.model.weight(layer) for layer in self.model.layers()}
        cost = size = 0.0
        for layer in chosen.layers:
            weight = weights[layer.name]
            if layer.weight is not None and weight is not None:
                cost += weight.size * layer.weight.cost(weight.shape[1])
                size += weight.size
        return cost / size

    def _recommended(self, **options: object) -> Configuration:
        recommended = of_store(read_root(self.store), Options(**options))  # type: ignore[arg-type]
        return parse(in_json(recommended, "linear"))


@cache
def calibrated_judge(
    calibration: tuple[int, int],
    num_images: int,
    num_steps: int,
    batch_size: int,
    under: Path | None,
) -> Judge:
    """The judge of a calibrated store, which is removed when the process ends.

    Args:
        calibration: images, and probes of each.
        num_images: to judge by.
        num_steps: calls of a sampling.
        batch_size: images that are sampled together.
        under: where to put the store; None for the system's temporary directory.
    """
    directory = tempfile.TemporaryDirectory(prefix="calibzarr-bench-", dir=under)
    atexit.register(directory.cleanup)
    store = Path(directory.name) / "calibration.zarr"
    images, probes = calibration
    calibzarr.build(store, num_images=images, num_steps=num_steps, batch_size=batch_size)
    calibzarr.collect(store, num_images=images, batch_size=batch_size)
    calibzarr.sensitivity(store, images=images, probes=probes, batch_size=batch_size)
    return Judge(store, num_images, num_steps, batch_size)

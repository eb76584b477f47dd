"""What quantized checkpoints are worth: pictures of held-out captions, against uniform bits."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import calibzarr
from benchmarks.measure import Entry, Figure, Settings
from calibzarr.export import checkpoint
from calibzarr.export.checkpoint import Choice
from calibzarr.models import registry
from calibzarr.models.base import Layer, Model
from calibzarr.models.diffusionkit import DiffusionKitModel
from calibzarr.prompts.lists import shape_captions
from calibzarr.quantization.quantizers import Quantizer
from calibzarr.sampling.sampler import euler_states

_APART = "context_embedder"  # stays as it is on both sides
_GROUP = 64
_HELD_OUT, _SEED = 200, 5000  # first caption and seed of the pictures; 0 and 0 are calibrated on
_BATCH = 8
_TARGETS = {3: (3.5, 8.0), 4: (3.0, 8.0), 5: (2.7, 7.5)}  # gains of rounded and of GPTQ, dB


def quality(settings: Settings) -> list[Figure]:
    """PSNR of mixed bits over uniform ones, rounded to the nearest and by GPTQ."""
    num_images, num_steps, num_pictures = settings.choose((56, 50, 32), (12, 4, 2))
    model = registry.load("tiny")
    assert isinstance(model, DiffusionKitModel)
    figures = []
    with settings.scratch() as scratch:
        directory = Path(scratch)
        store = directory / "a.zarr"
        calibzarr.build(store, num_images=num_images, num_steps=num_steps, batch_size=_BATCH)
        calibzarr.collect(store, num_images=_BATCH, batch_size=_BATCH)
        calibzarr.sensitivity(store, images=settings.choose(8, 2), probes=settings.choose(4, 2))
        judge = _Judge(model, num_pictures, num_steps)
        for bits, targets in _TARGETS.items():
            quantizer = Quantizer("weight", f"mlx-{_GROUP}", bits)
            mean = quantizer.cost(1)
            uniform = judge.psnr_db(_uniform(directory / f"uniform-{bits}", model, quantizer))
            for rounding, target in zip(("nearest", "gptq"), targets, strict=True):
                out = directory / f"{rounding}-{bits}"
                made = calibzarr.quantize(
                    store, out, bits_per_weight=mean, keep=[_APART], rounding=rounding
                )
                gain = judge.psnr_db(out) - uniform
                error = gain.std(ddof=1) / np.sqrt(gain.size)
                note = (
                    f"standard error {error:.2f}; uniform {uniform.mean():.1f} dB; "
                    f"{made.allocation.bits_per_weight:.3f} bits"
                )
                what = f"gain of mixed bits over uniform ones, {mean:g} bits, {rounding}, dB"
                at_least = None if settings.quick else target
                figures.append(
                    Figure("quality", what, [float(gain.mean())], at_least=at_least, note=note)
                )
    return figures


class _Judge:
    """Pictures of held-out captions, against those of the unquantized model."""

    def __init__(self, model: DiffusionKitModel, num_images: int, num_steps: int) -> None:
        self._model = model
        self._captions = shape_captions().prompts[_HELD_OUT : _HELD_OUT + num_images]
        self._num_steps = num_steps
        self._reference = self._pictures(model)

    def psnr_db(self, directory: Path) -> np.ndarray:
        """Of each picture of a checkpoint, shape (image,)."""
        pictures = self._pictures(self._model.with_checkpoint(directory))
        error = np.square(pictures - self._reference).mean(axis=(1, 2, 3))
        return np.asarray(10 * np.log10(255**2 / error))

    def _pictures(self, model: Model) -> np.ndarray:
        """Shape (image, row, column, rgb)."""
        schedule = model.schedule(self._num_steps)
        pictures: list[np.ndarray] = []
        for start in range(0, len(self._captions), _BATCH):
            captions: Sequence[str] = self._captions[start : start + _BATCH]
            seeds = range(_SEED + start, _SEED + start + len(captions))
            conditioning = model.encode(captions, 3.0)
            for state in euler_states(model, conditioning, schedule, list(seeds), 64):
                latents = model.to_numpy(state)
            pictures += [model.decode(final) for final in latents]
        return np.stack(pictures).astype(np.float64)


def _uniform(out: Path, model: DiffusionKitModel, quantizer: Quantizer) -> Path:
    """A checkpoint of equal bits, as ``mx.quantize`` rounds."""
    layers = tuple(layer for layer in model.layers() if layer.role == "input")
    choice = Choice(layers, tuple(None if layer.name == _APART else quantizer for layer in layers))

    def levels(layer: Layer) -> np.ndarray:
        assert quantizer.group_size is not None
        return model.levels_of_weight(layer, quantizer.group_size, quantizer.bits)[0]

    checkpoint.write(out, model, choice, levels, {"model": model.name}, lambda _: "uniform bits\n")
    return out


ENTRIES: Mapping[str, Entry] = {"quality": quality}

"""What quantized checkpoints are worth: pictures of held-out captions, against uniform bits."""

import atexit
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

import calibzarr
from benchmarks import checkpoint_memory
from benchmarks.measure import Entry, Figure, Settings, peak_memory
from benchmarks.peers import dynamic_quant, greedy_gain, kurtosis
from benchmarks.peers.calibration import GROUP, Bits, Calibration
from calibzarr.export import checkpoint
from calibzarr.export.checkpoint import Choice
from calibzarr.export.quantizing import Rounding
from calibzarr.export.tuning import Tuned
from calibzarr.models import registry
from calibzarr.models.base import Layer, Model
from calibzarr.models.diffusionkit import DiffusionKitModel
from calibzarr.prompts.lists import shape_captions
from calibzarr.quantization.quantizers import Quantizer
from calibzarr.sampling.sampler import euler_states

_APART = "context_embedder"  # stays as it is on both sides
_HELD_OUT, _SEED = 200, 5000  # first caption and seed of the pictures; 0 and 0 are calibrated on
_BATCH = 8
_TARGETS = {3: (3.5, 8.0), 4: (3.0, 8.0), 5: (2.7, 7.5)}  # gains of rounded and of GPTQ, dB
_ROUNDINGS: tuple[Rounding, ...] = ("nearest", "gptq")
_AHEAD = {3: (0.3, 4.0), 4: (0.0, 4.0)}  # of the best peer, likewise

_MINUTES = 3  # of tuning
_SMALL = 14, 64  # layers and their width, whose memory is that of the libraries

_MEMORY = """
import sys
from benchmarks.checkpoint_memory import quantize
quantize(*map(int, sys.argv[1:3]), sys.argv[3])
"""


def quality(settings: Settings) -> list[Figure]:
    """PSNR of mixed bits over uniform ones, rounded to the nearest and by GPTQ."""
    bench = _bench(settings)
    figures = []
    for bits, targets in _TARGETS.items():
        mean = Quantizer("weight", f"mlx-{GROUP}", bits).cost(1)
        uniform = bench.nearest(f"uniform-{bits}", dict.fromkeys(bench.modules, bits))
        for rounding, target in zip(_ROUNDINGS, targets, strict=True):
            gain = bench.ours(mean, rounding) - uniform
            note = f"{_error(gain)}; uniform {uniform.mean():.1f} dB; {mean:g} bits at most"
            what = f"gain of mixed bits over uniform ones, {mean:g} bits, {rounding}, dB"
            at_least = None if settings.quick else target
            figures.append(
                Figure("quality", what, [float(gain.mean())], at_least=at_least, note=note)
            )
    return figures


def tuned(settings: Settings) -> list[Figure]:
    """PSNR of tuned scales and biases over those of rounding, to the nearest and by GPTQ."""
    bench, minutes = _bench(settings), settings.choose(_MINUTES, 0.01)
    figures = []
    for bits in _TARGETS:
        mean = Quantizer("weight", f"mlx-{GROUP}", bits).cost(1)
        for rounding in _ROUNDINGS:
            gain = bench.ours(mean, rounding, minutes) - bench.ours(mean, rounding)
            what = f"gain of tuning for {minutes:g} minutes, {mean:g} bits, {rounding}, dB"
            at_least = None if settings.quick else -_standard_error(gain)
            note = f"{_error(gain)}; {bench.tuned_in_words(mean, rounding, minutes)}"
            figures.append(
                Figure("tuned", what, [float(gain.mean())], at_least=at_least, note=note)
            )
    return figures


def peers(settings: Settings) -> list[Figure]:
    """PSNR of mixed bits over what other ways choose, at the bits that those reach."""
    bench = _bench(settings)
    calibration = Calibration(bench.store, bench.model, _APART)
    errors = greedy_gain.measure(calibration)
    figures = []
    for bits, targets in _AHEAD.items():
        mean = Quantizer("weight", f"mlx-{GROUP}", bits).cost(1)
        choices = {
            "dynamic_quant": dynamic_quant.best(calibration, mean),
            "greedy gain": greedy_gain.choose(calibration, errors, mean),
            "kurtosis": kurtosis.choose(calibration, mean),
        }
        reached = {name: calibration.mean(choice) for name, choice in choices.items()}
        psnr = {name: bench.nearest(f"{name}-{bits}", choices[name]) for name in choices}
        uniform = bench.nearest(f"uniform-{bits}", dict.fromkeys(bench.modules, bits))
        fewest = min(reached.values())
        for rounding, target in zip(_ROUNDINGS, targets, strict=True):
            for name, theirs in psnr.items():
                ours = bench.ours(fewest if rounding == "gptq" else reached[name], rounding)
                ahead = ours - theirs
                widths = sorted(set(choices[name].values()))
                note = (
                    f"{_error(ahead)}; theirs gains {(theirs - uniform).mean():.2f} over uniform "
                    f"with {reached[name]:.3f} bits of widths {widths}"
                )
                what = f"gain over {name}, {mean:g} bits, {rounding}, dB"
                at_least = None if settings.quick else target
                figures.append(
                    Figure("peers", what, [float(ahead.mean())], at_least=at_least, note=note)
                )
    return figures


def memory(settings: Settings) -> list[Figure]:
    """Peak memory of quantizing layers of SD3-medium's shapes, without a call of a model."""
    num_layers, width = settings.choose((400, 1536), (400, 256))
    with settings.scratch() as directory:
        little, peak = (
            peak_memory(_MEMORY, *layers, directory) for layers in (_SMALL, (num_layers, width))
        )
    held = checkpoint_memory.expected(num_layers, width)
    what = "peak memory of quantizing / float16 weights, one block's weights and Hessians"
    note = (
        f"{num_layers} layers of width {width}; {held / 1e6:.0f} MB; without the "
        f"{little / 1e6:.0f} MB of a process that quantizes 14 of width {_SMALL[1]}"
    )
    return [Figure("memory", what, [(peak - little) / held], at_most=1.2, note=note)]


def _error(gain: np.ndarray) -> str:
    return f"standard error {_standard_error(gain):.2f}"


def _standard_error(gain: np.ndarray) -> float:
    return float(gain.std(ddof=1) / np.sqrt(gain.size))


class _Bench:
    """A calibrated store, and pictures by checkpoints that are made from it."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        num_images, num_steps, num_pictures = settings.choose((56, 50, 32), (12, 4, 2))
        model = registry.load("tiny")
        assert isinstance(model, DiffusionKitModel)
        self.model = model
        self.store = directory / "a.zarr"
        calibzarr.build(self.store, num_images=num_images, num_steps=num_steps, batch_size=_BATCH)
        calibzarr.collect(self.store, num_images=_BATCH, batch_size=_BATCH)
        calibzarr.sensitivity(
            self.store, images=settings.choose(8, 2), probes=settings.choose(4, 2)
        )
        self.modules = [
            layer.module
            for layer in model.layers()
            if layer.role == "input" and layer.name != _APART
        ]
        self._directory = directory
        self._judge = _Judge(model, num_pictures, num_steps)
        self._psnr_db: dict[str, np.ndarray] = {}

    def ours(self, mean: float, rounding: Rounding, tune: float | None = None) -> np.ndarray:
        """PSNR of the bits that sensitivities choose, shape (image,).

        Args:
            mean: bits of a weight, scales counted.
            rounding: of weights.
            tune: minutes of tuning; None for none.
        """
        out = self._checkpoint(mean, rounding, tune)
        if out.name not in self._psnr_db:
            calibzarr.quantize(
                self.store, out, bits_per_weight=mean, keep=[_APART], rounding=rounding, tune=tune
            )
            self._psnr_db[out.name] = self._judge.psnr_db(out)
        return self._psnr_db[out.name]

    def tuned_in_words(self, mean: float, rounding: Rounding, tune: float) -> str:
        """What tuning told of a checkpoint that :meth:`ours` has made."""
        config = json.loads((self._checkpoint(mean, rounding, tune) / "config.json").read_text())
        return Tuned(**config["tuning"]).in_words()

    def _checkpoint(self, mean: float, rounding: Rounding, tune: float | None) -> Path:
        return self._directory / f"{rounding}-{mean!r}-{tune}"

    def nearest(self, name: str, bits: Bits) -> np.ndarray:
        """PSNR of given bits in groups of 64, as ``mx.quantize`` rounds, shape (image,)."""
        if name not in self._psnr_db:
            out = self._directory / name
            _write(out, self.model, bits)
            self._psnr_db[name] = self._judge.psnr_db(out)
        return self._psnr_db[name]


@cache
def _bench(settings: Settings) -> _Bench:
    """What entries share; removed when the process ends."""
    directory = tempfile.TemporaryDirectory(prefix="calibzarr-bench-", dir=settings.directory)
    atexit.register(directory.cleanup)
    return _Bench(Path(directory.name), settings)


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


def _write(out: Path, model: DiffusionKitModel, bits: Bits) -> None:
    """A checkpoint of given bits, as ``mx.quantize`` rounds."""
    layers = tuple(layer for layer in model.layers() if layer.role == "input")
    quantizers = tuple(
        Quantizer("weight", f"mlx-{GROUP}", bits[layer.module]) if layer.module in bits else None
        for layer in layers
    )

    def levels(layer: Layer) -> np.ndarray:
        return model.levels_of_weight(layer, GROUP, bits[layer.module])[0]

    choice = Choice(layers, quantizers)
    checkpoint.write(out, model, choice, levels, {"model": model.name}, lambda _: "given bits\n")


ENTRIES: Mapping[str, Entry] = {
    "quality": quality,
    "tuned": tuned,
    "peers": peers,
    "memory": memory,
}

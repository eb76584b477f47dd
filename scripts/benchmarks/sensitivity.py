"""What measuring sensitivities costs, and how near they are to quantizing each layer alone."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
import xarray as xr

import calibzarr
from benchmarks.measure import Entry, Figure, Settings
from calibzarr.collecting.replay import Batch, Replay
from calibzarr.collecting.sensitivity import CALLS_OF_A_PASS, probe_signs
from calibzarr.models import registry
from calibzarr.models.diffusionkit import DiffusionKitModel, kit
from calibzarr.models.observation import patched
from calibzarr.quantization.levels import BITS
from calibzarr.quantization.quantizers import QUANTIZERS, QuantizationErrors
from calibzarr.storage.manifest import read_root

_STEPS = (10, 28, 44)
_QUANTIZERS = {"activations": "activation-tensor-{}", "weights": "weight-row-{}"}
_MAX_CALLS = 1000


def accuracy(settings: Settings) -> list[Figure]:
    """First-order sensitivities against the error of quantizing each layer alone."""
    num_images, num_layers, probes = settings.choose((8, 24, 8), (1, 3, 2))
    num_steps, steps = settings.choose((50, _STEPS), (4, (1,)))
    model = registry.load("tiny")
    figures = []
    with settings.scratch() as directory:
        path = Path(directory) / "a.zarr"
        calibzarr.build(path, num_images=num_images, num_steps=num_steps, batch_size=num_images)
        calibzarr.collect(path, num_images=num_images, batch_size=num_images)
        calibzarr.sensitivity(
            path, images=num_images, probes=probes, steps=list(steps), batch_size=num_images
        )
        dataset = xr.open_zarr(path, chunks=None)
        batch = Replay.of(read_root(path), model).batch(range(num_images))
        names = _spread_layers(dataset, num_layers)
        for bits, rms_at_most in ((4, 1.0), (2, 1.5), (8, 1.5)):
            differences, pairs = [], []
            for what, quantizer in _QUANTIZERS.items():
                kind = what.removesuffix("s")
                column = quantizer.format(bits)
                measured = dataset[f"{kind}_sensitivity"].sel(quantizer=column)
                for name in names:
                    expected = _alone(model, batch, dataset, name, column)
                    actual = measured.sel(layer=name).values
                    known = (expected > 0) & (actual > 0)
                    differences += list(10 * np.log10(actual[known] / expected[known]))
                    pairs += list(zip(actual[known], expected[known], strict=True))
            first, second = np.array(pairs).T
            ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
            note = f"{len(names)} layers, both kinds, {len(steps)} states x {num_images} images"
            rms = float(np.sqrt(np.mean(np.square(differences))))
            what = f"error at {bits} bits, from backward passes over alone, rms dB"
            figures.append(Figure("accuracy", what, [rms], at_most=rms_at_most, note=note))
            if bits == 4:
                spearman = float(np.corrcoef(*ranks)[0, 1])
                what = "rank correlation of the two at 4 bits"
                figures.append(Figure("accuracy", what, [spearman], at_least=0.98, note=note))
    return figures


def _spread_layers(dataset: xr.Dataset, count: int) -> list[str]:
    """Linear layers of all kinds, evenly spread in depth; one for each input group."""
    linear = dataset.layer.values[(dataset.role == "input").values]
    groups = dataset.input_group.values[(dataset.role == "input").values]
    firsts = [name for name, group in zip(linear, groups, strict=True) if name == group]
    return [firsts[i] for i in np.linspace(0, len(firsts) - 1, count).round().astype(int)]


def _alone(
    model: DiffusionKitModel, batch: Batch, dataset: xr.Dataset, name: str, column: str
) -> np.ndarray:
    """Squared error of the guided output over its power with one layer quantized, shape (step,)."""
    layers = model.layers()
    index = [layer.name for layer in layers].index(name)
    members = {i for i, v in enumerate(layers) if v.input_group == layers[index].input_group}
    tensor = [f"activation-tensor-{bits}" for bits in BITS]
    ends = (dataset[f"sensitivity_clip_{e}"].sel(quantizer=tensor).values for e in ("min", "max"))
    errors = QuantizationErrors(*ends)
    position = [quantizer.name for quantizer in QUANTIZERS].index(column)
    results = []
    for step in dataset.sensitivity_step.values.tolist():
        exact = model.to_numpy(batch.denoised(step))
        if column.startswith("activation"):

            def quantized(layer: int, inputs: mx.array) -> mx.array:
                if layer not in members:
                    return inputs
                return inputs + errors.of_inputs(layer, inputs)[position]

            with model.transforming_inputs(quantized):
                other = model.to_numpy(batch.denoised(step))
        else:
            module = dict(model.pipeline.mmdit.named_modules())[layers[index].module]
            weight = module.weight
            first = sum(quantizer.quantizes == "activation" for quantizer in QUANTIZERS)
            module.weight = weight + errors.of_weight(index, weight)[position - first]
            other = model.to_numpy(batch.denoised(step))
            module.weight = weight
        sigma = batch.schedule.sigma[step]
        power = np.square((batch.latents[:, step] - exact) / sigma).sum()
        results.append(np.square((other - exact) / sigma).sum() / power)
    return np.array(results)


def calls(settings: Settings) -> list[Figure]:
    """Guided calls of a whole measurement, counted as they are made."""
    num_images, num_steps = settings.choose((8, 50), (2, 4))
    counted = [0]
    backward = [False]

    def count(original: Callable[..., mx.array], *arguments: mx.array, **rest: object) -> mx.array:
        latents = arguments[1]
        counted[0] += latents.shape[0] * (CALLS_OF_A_PASS if backward[0] else 1)
        return original(*arguments, **rest)

    original = DiffusionKitModel.signed_products

    def signed_products(*arguments: object) -> tuple[np.ndarray, np.ndarray]:
        backward[0] = True
        try:
            return original(*arguments)
        finally:
            backward[0] = False

    with settings.scratch() as directory:
        path = Path(directory) / "a.zarr"
        calibzarr.build(path, num_images=num_images, num_steps=num_steps, batch_size=num_images)
        calibzarr.collect(path, num_images=num_images, batch_size=num_images)
        DiffusionKitModel.signed_products = signed_products
        try:
            with patched(kit.CFGDenoiser, count):
                calibzarr.sensitivity(path, images=num_images)
        finally:
            DiffusionKitModel.signed_products = original
    note = "8 images, 4 probes, 6 of 50 calls; a backward pass counted as 3; amplification included"
    what = "guided calls, for all layers, quantizers and bits"
    return [Figure("calls", what, [counted[0]], at_most=_MAX_CALLS, note=note)]


def passes(settings: Settings) -> list[Figure]:
    """Time and memory of a backward pass with all its sums, over a guided call."""
    figures = []
    model = registry.load("tiny")
    ends = np.full((len(model.layers()), len(BITS)), 4.0)
    errors = QuantizationErrors(-ends, ends)
    schedule = model.schedule(8)
    for size in settings.choose((64, 128), (64,)):
        conditioning = model.encode(["a red circle"], 3.0)
        latents = model.initial_latents([0], size, schedule)
        signs = probe_signs(0, 0, 4, 1, model.latent_shape(size))[None, None]

        def forward(latents: mx.array = latents, conditioning: object = conditioning) -> None:
            with model.denoiser(conditioning, schedule, steps=[4]) as denoise:
                mx.eval(denoise(latents, 4))

        def backward(
            latents: mx.array = latents,
            conditioning: object = conditioning,
            signs: np.ndarray = signs,
        ) -> None:
            model.signed_products(latents, conditioning, schedule, 4, signs, errors)

        times: dict[str, list[float]] = {"forward": [], "backward": []}
        peaks = {}
        for turn in range(settings.turns(7) + 1):  # the first warms up
            for name, function in (("forward", forward), ("backward", backward)):
                mx.reset_peak_memory()
                start = time.perf_counter()
                function()
                if turn:
                    times[name].append(time.perf_counter() - start)
                peaks[name] = mx.get_peak_memory()
        ratios = [b / f for b, f in zip(times["backward"], times["forward"], strict=True)]
        note = f"{len(QUANTIZERS)} quantizers, 1 image, 1 probe"
        figures.append(Figure("passes", f"time at {size} pixels / of a call", ratios, note=note))
        what = f"peak memory at {size} pixels / of a call"
        figures.append(Figure("passes", what, [peaks["backward"] / peaks["forward"]], note=note))
    return figures


ENTRIES: Mapping[str, Entry] = {"accuracy": accuracy, "calls": calls, "passes": passes}

"""A quantized checkpoint of a store's model: planned, rounded, measured and written."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from rich.console import Console

from calibzarr.collecting import archive
from calibzarr.collecting.hessians import hessians, replays
from calibzarr.collecting.layer_inputs import load_replayable
from calibzarr.collecting.replay import Replay
from calibzarr.errors import Option, OptionError, StoreError, disk_full_named
from calibzarr.export import card, checkpoint, checkpoint_plan, tuning
from calibzarr.export.card import QuantizeResult
from calibzarr.export.checkpoint import Choice
from calibzarr.export.checkpoint_allocation import Allocation, allocation_of
from calibzarr.export.checkpoint_plan import CheckpointPlan
from calibzarr.export.measuring import outputs, sqnr_by_call
from calibzarr.export.tuning import Tuned
from calibzarr.long_run import LongRun, long_run
from calibzarr.memory import available
from calibzarr.models.base import Layer
from calibzarr.models.quantized.checkpointable import CheckpointableModel
from calibzarr.models.quantized.tunable import Grid, TunableModel
from calibzarr.models.text.ahead import unload
from calibzarr.progress import progress_console
from calibzarr.quantization.gptq import DAMPING, gptq
from calibzarr.quantization.quantizers import MLX_GROUPS
from calibzarr.storage.manifest import made_by

Rounding = Literal["gptq", "nearest"]
ROUNDINGS: tuple[Rounding, ...] = ("gptq", "nearest")

_LEVELS = "levels"
_GIGABYTE = 10**9


def quantize(
    path: str | Path,
    out: str | Path,
    *,
    bits_per_weight: float | None = None,
    size: float | None = None,
    groups: Sequence[int] = MLX_GROUPS,
    keep: Sequence[str] = (),
    rounding: Rounding = "gptq",
    images: int = 48,
    memory: float | None = None,
    tune: float | None = None,
    t5: int | None = None,
    progress: bool | None = None,
) -> QuantizeResult:
    """Write a quantized checkpoint of a store's model, with bits where they count.

    Bits and groups of each layer come from the store's sensitivities. Weights are rounded by GPTQ
    (Frantar et al. 2022, arXiv 2210.17323) with Hessians of replayed inputs.

    Args:
        path: directory of a store with sensitivities.
        out: directory to make; loads with ``mlx.nn.quantize``, mlx-lm's ``load_model`` and
            :func:`calibzarr.load_pipeline`.
        bits_per_weight: mean of the layers that are quantized, scales and biases counted.
        size: or bytes of ``model.safetensors``, everything counted.
        groups: sizes of groups to choose from, of 32, 64 and 128.
        keep: patterns, as of file names, of layers that stay as they are.
        rounding: ``gptq``, or ``nearest`` for what ``mx.quantize`` does.
        images: that the Hessians are of, beside those that quality is measured on.
        memory: bytes that Hessians may take; None for half of what is free.
        tune: minutes for tuning scales and biases by Adam until the model's outputs are those of
            the store's states, on all images that quality is not measured on; it is measured
            before and after, and the better is kept. None for none.
        t5: bits of the linear layers of the text encoder T5, 2, 3, 4, 5, 6 or 8, in groups of 64,
            rounded to the nearest level; None where T5 stays as it is, and outside.
        progress: whether to show it; if None, only on a terminal or in a notebook.

    Returns:
        What was made. A first Ctrl-C ends it after the call in work; the same call goes on.

    Raises:
        OptionError: if a value is not allowed, or the wish cannot be met.
        StoreError: if the store cannot be used, or its model's weights have changed.
        TakenError: if something stands at ``out``.
        OSError: if it cannot be written; nothing half-written is left.
    """
    plan = checkpoint_plan.plan(
        path,
        out,
        bits_per_weight=bits_per_weight,
        size=size,
        groups=groups,
        keep=keep,
        images=images,
        tune=tune,
        t5=t5,
    )
    return run(plan, progress_console(progress), rounding=rounding, memory=memory)


def run(
    plan: CheckpointPlan, console: Console, *, rounding: Rounding, memory: float | None
) -> QuantizeResult:
    """Make what was planned; see :func:`quantize`."""
    if rounding not in ROUNDINGS:
        raise OptionError(Option("rounding"), f" must be gptq or nearest, got {rounding!r}")
    if memory is not None and not memory > 0:
        raise OptionError(Option("memory"), f" must be above 0, got {memory}")
    model = _loaded(plan)
    allocation = allocation_of(plan, model)
    console.print(card.summary(allocation))
    work = _Work(plan, model, allocation, rounding)
    parts = work.parts(available() // 2 if memory is None else int(memory))
    calls = len(parts) * len(plan.images) * len(plan.steps)
    measuring = (2 if plan.tune is None else 3) * len(plan.held_out) * len(plan.measured.steps)
    if calls:
        console.print(
            f"{len(parts)} replays of {len(plan.images)} images at {len(plan.steps)} calls"
        )

    def working(total: int) -> AbstractContextManager[LongRun]:
        return long_run(console, "quantize", "call", total, stopping="after the call in work")

    interrupted = QuantizeResult(plan.out, allocation, None, {}, interrupted=True)
    with disk_full_named(lambda: "what is rounded so far stays; make room, then go on"):
        if plan.tune is not None:
            with working(calls) as run:
                work.round(parts, run)
            parts = []
            if run.interrupted or not work.tune(console):
                return interrupted
            calls = 0
        with working(calls + measuring) as run:
            if work.round(parts, run):
                result = work.write(run)
                if result.tuned is not None:
                    console.print(result.tuned.in_words())
                return result
    return interrupted


def _loaded(plan: CheckpointPlan) -> CheckpointableModel:
    model = load_replayable(plan.root)
    if not isinstance(model, CheckpointableModel):
        raise StoreError(f"{model.name} is no model that mlx.nn.quantize can quantize")
    if plan.tune is not None and not isinstance(model, TunableModel):
        raise StoreError(f"{model.name} is no model whose quantized weights can be tuned")
    if plan.t5 is not None and model.t5() is None:
        raise OptionError(
            Option("t5"), f" is for models with T5, which {model.name} has not; got {plan.t5}"
        )
    return model


class _Work:
    """A loaded model, and the levels that are found so far, in a directory beside the result."""

    def __init__(
        self,
        plan: CheckpointPlan,
        model: CheckpointableModel,
        allocation: Allocation,
        rounding: Rounding,
    ) -> None:
        self._plan = plan
        self._model = model
        self._allocation = allocation
        self._rounding = rounding
        used = plan.images if plan.tune is None else (*plan.images, *plan.training)
        self._replay = Replay.of(plan.root, model, used)
        self._directory = plan.out.with_name(f"{plan.out.name}.rounded")
        self._quantizers = dict(allocation.choice.quantized())
        self._scales: tuning.Scales | None = None
        self._num_steps = 0  # of tuning
        self.tuned: Tuned | None = None
        self.t5: Choice | None = None
        self._memory = {**model.module_sizes(), "mmdit": allocation.file_size}  # of the result
        if plan.t5 is not None and (encoder := model.t5()) is not None:
            self.t5 = checkpoint.uniform(encoder, plan.t5)
            shapes = checkpoint.shapes(encoder.parameters(), self.t5)
            self._memory["t5_encoder"] = checkpoint.file_size(shapes)

    def parts(self, memory: int) -> list[list[int]]:
        """Layers to round, those of one replay together; prepares the directory."""
        if self._rounding == "nearest" and self._plan.tune is None:
            return []
        archive.prepare(self._directory, self._identity())
        if self._rounding == "nearest":
            return []
        layers = self._model.layers()
        missing = [
            index
            for index, layer in enumerate(layers)
            if layer in self._quantizers and not self._file(layer).exists()
        ]
        return replays(layers, missing, memory)

    def round(self, parts: Sequence[Sequence[int]], run: LongRun) -> bool:
        """Round every layer; whether nobody asked to stop."""
        layers = self._model.layers()

        def proceed() -> bool:
            run.report.advance(1)
            return not run.stops()

        for part in parts:
            found = hessians(self._replay, part, self._plan.images, self._plan.steps, proceed)
            if found is None:
                return False
            for index in part:
                layer = layers[index]
                weight, bits = self._model.weight(layer), self._quantizers[layer].bits
                assert weight is not None
                level = gptq(weight, *self._grid(layer), bits, found.pop(index))
                archive.write(self._file(layer), {}, {_LEVELS: level})
        return True

    def tune(self, console: Console) -> bool:
        """Tune scales and biases of the rounded weights; whether nobody asked to stop."""
        assert self._plan.tune is not None
        layers = self._model.layers()
        grids = {
            index: (self._levels(layer), *self._grid(layer)[1:])
            for index, layer in enumerate(layers)
            if layer in self._quantizers
        }
        about = {**self._identity(), "rounding": self._rounding}
        found = tuning.tune(
            self._replay,
            grids,
            self._plan.training,
            self._plan.tune,
            self._directory,
            about,
            console,
        )
        if found is None:
            return False
        self._num_steps, self._scales = found
        return True

    def write(self, run: LongRun) -> QuantizeResult:
        """Write the checkpoint, and measure it."""
        plan, advance = self._plan, lambda: run.report.advance(1)
        expected = outputs(plan, self._model, advance)
        found: dict[int, float] = {}

        def measured(directory: Path) -> dict[int, float]:
            unload(self._model)  # which writing T5 has read again
            quantized = outputs(plan, self._model.with_checkpoint(directory), advance)
            return sqnr_by_call(expected, quantized)

        if self._scales is not None:
            found = self._better(measured)

        def result() -> QuantizeResult:
            return QuantizeResult(
                *(plan.out, self._allocation, found or None, self._memory),
                interrupted=run.interrupted,
                tuned=self.tuned,
                t5=self.t5,
            )

        def text(directory: Path) -> str:
            if not found:
                found.update(measured(directory))
            return card.card(plan, self._rounding, result())

        config = {
            "model": self._model.name,
            "model_fingerprint": self._model.fingerprint,
            **card.provenance(plan, self._rounding, result()),
            **made_by(("calibzarr", "diffusionkit", "mlx"), "quantized"),
        }
        self._write(plan.out, config, text)
        shutil.rmtree(self._directory, ignore_errors=True)
        return result()

    def _better(self, measured: Callable[[Path], dict[int, float]]) -> dict[int, float]:
        """Measure the checkpoint as it was and as it is tuned; keep the better one's scales."""
        tuned, results = self._scales, []
        for self._scales in (None, tuned):
            aside = self._directory / "measured"
            shutil.rmtree(aside, ignore_errors=True)
            self._write(aside, {"model": self._model.name}, lambda _: "")
            results.append(measured(aside))
        shutil.rmtree(aside)
        before, after = (fmean(result.values()) for result in results)
        self.tuned = Tuned(self._num_steps, before, after if isfinite(after) else None)
        self._scales = tuned if self.tuned.kept else None
        return results[self.tuned.kept]

    def _write(self, path: Path, config: dict[str, Any], text: Callable[[Path], str]) -> None:
        scales, layers = self._scales, self._model.layers()
        checkpoint.write(
            path,
            self._model,
            self._allocation.choice,
            self._levels,
            config,
            text,
            None if scales is None else lambda layer: scales[layers.index(layer)],
            self.t5,
        )

    def _levels(self, layer: Layer) -> np.ndarray:
        nearest = self._grid(layer)[0]
        if self._rounding == "nearest":
            return nearest
        file = self._file(layer)
        with archive.opened(file, archive.remedy(file)) as kept:
            if kept is None:
                raise StoreError(f"{file} was removed meanwhile; give the same command again")
            return kept.array(_LEVELS, np.uint8, nearest.shape)

    def _grid(self, layer: Layer) -> Grid:
        """What ``mx.quantize`` makes of a weight."""
        quantizer = self._quantizers[layer]
        assert quantizer.group_size is not None
        return self._model.levels_of_weight(layer, quantizer.group_size, quantizer.bits)

    def _file(self, layer: Layer) -> Path:
        return self._directory / f"{layer.name}.npz"

    def _identity(self) -> dict[str, Any]:
        plan = self._plan
        return {
            "model_fingerprint": self._model.fingerprint,
            "quantization": self._allocation.choice.entry(),
            "prompts_sha256": plan.root.attributes["prompts_sha256"],
            "seed": plan.root.attributes.get("seed"),
            "images": list(plan.images),
            "steps": list(plan.steps),
            "damping": DAMPING,
        }

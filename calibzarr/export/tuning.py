"""Scales and biases of a checkpoint, tuned until the model says what a store's states say."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from calibzarr.collecting import archive
from calibzarr.collecting.replay import Batch, Replay
from calibzarr.long_run import LongRun, long_run
from calibzarr.models.quantized.tunable import Grid, TunableModel, Tuner

LEARNING_RATE = 1.5e-5  # ten times that wrecked `tiny`
_IMAGES = 4  # of a step
_STEPS = 4  # with the same images, whose prompts are encoded once
_TIMED = 3  # steps, of which the first is not representative
_BETWEEN_SAVES = 60.0  # seconds
_STATE = "tuning.npz"

Scales = Mapping[int, tuple[np.ndarray, np.ndarray]]
"""Scales and biases, float32 of values of 16 bits, by index of the layer."""


@dataclass(frozen=True)
class Tuned:
    """What tuning did.

    Attributes:
        num_steps: of Adam.
        before_db: measured SQNR of the guided output on images held out, mean over calls, untuned.
        after_db: the same, tuned; None where the outputs are not finite.
    """

    num_steps: int
    before_db: float
    after_db: float | None

    @property
    def kept(self) -> bool:
        """Whether the tuned scales and biases are in the checkpoint."""
        return self.after_db is not None and self.after_db > self.before_db

    def in_words(self) -> str:
        """What came of it, in a sentence."""
        after = "not finite" if self.after_db is None else f"{self.after_db:.2f} dB"
        change = f"output SQNR on images held out {self.before_db:.2f} dB before, {after} after"
        if self.kept:
            return f"tuned in {self.num_steps} steps: {change}"
        return f"{self.num_steps} steps of tuning: {change}; the untuned weights are kept"


def tune(
    replay: Replay,
    grids: Mapping[int, Grid],
    images: tuple[int, ...],
    minutes: float,
    directory: Path,
    about: Mapping[str, Any],
    console: Console,
) -> tuple[int, Scales] | None:
    """Minimise the squared error of the guided output at stored states by Adam.

    The learning rate falls from ``LEARNING_RATE`` to 0 as a cosine. The number of steps is what
    fits in the time, from that of a few; it decides the result, however often the work is stopped.

    Args:
        replay: of the store, with the unquantized model.
        grids: of the layers that are quantized, by index.
        images: to train on.
        minutes: to take, about.
        directory: where it is kept how far it is.
        about: what else decides the result, in JSON types.
        console: where to tell.

    Returns:
        The number of steps, and what was found; None if the user stopped it.
    """
    assert isinstance(replay.model, TunableModel)
    training = _Training(replay, images)
    tuner = replay.model.tuner(grids)
    file = directory / _STATE
    identity = {**about, "minutes": minutes, "images": list(images), "rate": LEARNING_RATE}
    num_steps, done = _restore(tuner, file, identity)
    if not num_steps:
        num_steps = steps_within(minutes, training, replay.model.tuner(grids))
    with long_run(
        console, "tune", "step", num_steps, done, stopping="after the step in work"
    ) as run:
        if _go_on(training, tuner, file, {**identity, "num_steps": num_steps}, done, run):
            return num_steps, tuner.scales()
    return None


def steps_within(minutes: float, training: "_Training", tuner: Tuner) -> int:
    """How many steps fit in a time, by that of a few; the tuner is of no use afterwards."""
    taken = []
    for step in range(_TIMED):
        start = time.perf_counter()
        training.step(tuner, step, 0.0)
        taken.append(time.perf_counter() - start)
    return max(1, int(60 * minutes / min(taken)))


def _go_on(
    training: "_Training",
    tuner: Tuner,
    file: Path,
    identity: Mapping[str, Any],
    done: int,
    run: LongRun,
) -> bool:
    """Make the steps that are missing; whether nobody asked to stop."""
    saved = time.monotonic()
    for step in range(done, identity["num_steps"]):
        stopping = run.stops()
        if stopping or time.monotonic() - saved > _BETWEEN_SAVES:
            _save(tuner, file, {**identity, "done": step})
            saved = time.monotonic()
        if stopping:
            return False
        part = step / identity["num_steps"]
        training.step(tuner, step, LEARNING_RATE * (1 + math.cos(math.pi * part)) / 2)
        run.report.advance(1)
    return True


def _save(tuner: Tuner, file: Path, identity: Mapping[str, Any]) -> None:
    archive.write(file, identity, tuner.state())


def _restore(tuner: Tuner, file: Path, identity: Mapping[str, Any]) -> tuple[int, int]:
    """How many steps there are to be, and how many there were; 0 where nothing was begun.

    Raises:
        StoreError: if what is kept is damaged.
    """
    with archive.opened(file, archive.remedy(file)) as kept:
        if kept is None:
            return 0, 0
        told = dict(kept.header)
        counts = {name: told.pop(name, None) for name in ("num_steps", "done")}
        if told != json.loads(json.dumps(identity)):
            return 0, 0
        num_steps, done = (kept.field(name, int) for name in counts)
        state = tuner.state().items()
        tuner.restore({name: kept.array(name, like.dtype, like.shape) for name, like in state})
    return num_steps, done


class _Training:
    """Stored states and velocities, in an order that is always the same."""

    def __init__(self, replay: Replay, images: tuple[int, ...]) -> None:
        self._replay = replay
        self._images = images
        self._batch: tuple[int, Batch] | None = None

    def step(self, tuner: Tuner, number: int, learning_rate: float) -> float:
        """Make one step; the loss before it."""
        visit, position = divmod(number, _STEPS)
        generator = np.random.default_rng(visit)
        images = generator.permutation(self._images)[:_IMAGES]
        call = int(generator.integers(self._replay.schedule.num_steps, size=_STEPS)[position])
        if self._batch is None or self._batch[0] != visit:
            self._batch = visit, self._replay.batch(sorted(images.tolist()))
        batch, sigma = self._batch[1], self._replay.schedule.sigma
        states, following = batch.latents[:, call], batch.latents[:, call + 1]
        velocity = (states - following) / (sigma[call] - sigma[call + 1])
        return tuner.step(states, batch.conditioning, batch.schedule, call, velocity, learning_rate)

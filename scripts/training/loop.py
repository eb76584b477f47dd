"""The loop of a stage: one step after the other, with checkpoints and lines of progress."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from training import checkpoints


class Settings(Protocol):
    """What a loop has to know of a stage's settings."""

    @property
    def steps(self) -> int:
        """Steps in all."""
        ...

    @property
    def checkpoint_every(self) -> int:
        """Steps between checkpoints."""
        ...


def run(
    name: str,
    path: Path,
    settings: Settings,
    done: int,
    advance: Callable[[int], float],
    state: Callable[[], dict[str, Any]],
    describe: Callable[[float], str],
    say: Callable[[str], None],
) -> None:
    """Do the steps that are not done yet.

    Args:
        name: of the stage.
        path: of its checkpoint.
        settings: of the stage.
        done: steps that the checkpoint has already.
        advance: does a step and returns its loss.
        state: trees of arrays that the stage goes on from.
        describe: says a mean loss in words.
        say: receives a line of progress at each checkpoint.

    Raises:
        OSError: if the checkpoint cannot be written.
    """
    started, losses = time.monotonic(), []
    for step in range(done, settings.steps):
        losses.append(advance(step))
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            checkpoints.save(path, step + 1, settings, state())
            seconds = (time.monotonic() - started) / (step + 1 - done)
            recent = float(np.mean(losses[-settings.checkpoint_every :]))
            say(
                f"{name}: {step + 1} of {settings.steps} steps, {describe(recent)}, "
                f"{seconds:.2f} s a step"
            )

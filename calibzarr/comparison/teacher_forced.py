"""What a run's model loses by itself: its output at the reference's states."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from calibzarr.collecting.replay import Batch, Replay
from calibzarr.comparison import figures, states
from calibzarr.comparison.figures import Figure
from calibzarr.comparison.states import ErrorByStep
from calibzarr.errors import out_of_memory_named
from calibzarr.models.base import Model
from calibzarr.storage import schema, shards
from calibzarr.storage.manifest import Root

Advance = Callable[[int], None]


@dataclass(frozen=True)
class TeacherForced:
    """Error of the guided output when every call starts from the reference's state.

    Attributes:
        by_step: squared error over the reference's power at the calls that were made.
        output_sqnr: mean over those calls of the SQNR, dB.
    """

    by_step: ErrorByStep
    output_sqnr: Figure


def outputs(
    reference: Root, model: Model, images: Sequence[int], steps: Sequence[int], advance: Advance
) -> Iterator[np.ndarray]:
    """The guided output ``(x - denoised) / sigma`` of a model at the reference's states.

    Args:
        reference: whose states and prompts they are.
        model: to call.
        images: indices in the reference.
        steps: indices of calls.
        advance: called with the number of images after each call.

    Yields:
        Of the images batch by batch, shape (step, image, channel, height, width).
    """
    replay = Replay.of(reference, model, images)
    for members in _batches(reference, images):
        with out_of_memory_named(len(members)):
            batch = replay.batch(members)
            found = []
            for step in steps:
                found.append(_output(batch, step))
                advance(len(members))
        yield np.stack(found)


def _output(batch: Batch, step: int) -> np.ndarray:
    denoised = batch.model.to_numpy(batch.denoised(step))
    return np.asarray((batch.latents[:, step] - denoised) / batch.schedule.sigma[step])


def derived_outputs(
    reference: Root, images: Sequence[int], sigma: np.ndarray, steps: Sequence[int]
) -> Iterator[np.ndarray]:
    """What the reference's own model gave, from its states: the slope between two of them.

    Exact to about 2e-5 from states of 32 bits; those of 16 bits are rounded too coarsely for it.

    Args:
        reference: whose states they are.
        images: indices in the reference.
        sigma: of every state.
        steps: indices of calls.

    Yields:
        As :func:`outputs`.
    """
    first, following = np.array(steps), np.array(steps) + 1
    change = (sigma[following] - sigma[first])[:, None, None, None, None]
    metadata = reference.arrays[schema.LATENTS.name]
    for batch in _batches(reference, images):
        before, after = (
            shards.read_states(reference.path, metadata, batch, chosen)
            for chosen in (first, following)
        )
        yield (after - before).swapaxes(0, 1) / change


def _batches(reference: Root, images: Sequence[int]) -> Iterator[Sequence[int]]:
    """Images that are computed together: as many as the reference was built with."""
    size = reference.attributes.get("batch_size") or 1
    return (images[first : first + size] for first in range(0, len(images), size))


def measure(
    found: Iterable[np.ndarray],
    expected: Iterable[np.ndarray],
    steps: Sequence[int],
    sigma: np.ndarray,
) -> TeacherForced:
    """The error of outputs.

    Args:
        found: of a run's model, shape (step, image, channel, height, width), batch by batch.
        expected: of the reference, in the same batches.
        steps: indices of the calls.
        sigma: of every state.
    """
    energies = []
    for output, exact in zip(found, expected, strict=True):
        energies.append([states.squares(values, 2) for values in (output - exact, exact)])
    error, power = (np.concatenate(parts, axis=1).T for parts in zip(*energies, strict=True))
    return of_energies(error, power, steps, sigma)


def of_energies(
    error: np.ndarray, power: np.ndarray, steps: Sequence[int], sigma: np.ndarray
) -> TeacherForced:
    """The figures from sums of squares.

    Args:
        error: of the differences, shape (image, step).
        power: of the reference's outputs, likewise.
        steps: indices of the calls.
        sigma: of every state.
    """
    by_step = states.by_step(np.array(steps), sigma[list(steps)], error, power)
    value = float(by_step.sqnr_db.mean())
    if len(error) < 2:
        return TeacherForced(by_step, Figure(value))
    samples = figures.decibels(figures.ratio_samples(error, power)).mean(axis=1)
    return TeacherForced(by_step, figures.of_samples(value, samples))

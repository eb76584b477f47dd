"""What all images of an old directory have in common, and reading those that have it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibzarr.errors import Message, OptionError, StoreError
from calibzarr.legacy import marker, old_directory, old_format
from calibzarr.legacy.bounded import Unreadable
from calibzarr.statistics.steps import falls_to_zero

_HEADERS_BYTES = 4096  # of the arrays of one file, beside x


@dataclass(frozen=True)
class Reference:
    """What all images of a directory have in common.

    Attributes:
        layout: of x, one of ``choices.LAYOUTS``.
        latent_shape: sizes of (channel, height, width).
        sigma: shape (step,), float32.
        timestep: shape (step,), float32.
    """

    layout: str
    latent_shape: tuple[int, int, int]
    sigma: np.ndarray
    timestep: np.ndarray


def find(directory: Path, images: Sequence[int], num_states: int, layout: str | None) -> Reference:
    """What the first image that can be read has, as every other must.

    Args:
        directory: in the old layout.
        images: of which all states are there.
        num_states: of each image.
        layout: of x, or None to detect it.

    Raises:
        StoreError: if there is no such image.
        OptionError: if the layout can be either.
    """
    reasons: list[Message] = []
    for image in images:
        try:
            try:
                return _read(directory, image, num_states, layout)
            except OptionError:  # either is possible
                exported = marker.read(directory)
                if exported is None:
                    raise
                layout = exported.layout
                return _read(directory, image, num_states, layout)
        except Unreadable as error:
            reasons.append(error.message)
    detail = (": ", reasons[0]) if reasons else ()
    raise StoreError(f"{directory} has no image that is whole", *detail)


def _read(directory: Path, image: int, num_states: int, layout: str | None) -> Reference:
    states = []
    for path in old_directory.state_paths(directory, image, num_states):
        try:
            state = old_directory.read_state(path, layout, old_format.MAX_STATE_BYTES)
        except Unreadable as error:
            raise Unreadable(f"{path.name} ", error.message) from None
        layout = state.layout
        states.append((state.x.shape, state.sigma, state.timestep))
    if layout is None or num_states < 2:
        raise Unreadable(f"image {image} has {num_states} states; at least 2 are expected")
    shapes, sigmas, timesteps = zip(*states, strict=True)
    if len(set(shapes)) > 1:
        raise Unreadable(f"the states of image {image} differ in shape")
    sigma = np.array(sigmas, dtype=np.float32)
    if not falls_to_zero(sigma):
        raise Unreadable(
            f"the sigma of image {image} does not fall to 0, but is {sigma[0]:g} to {sigma[-1]:g}: "
            "states are missing or damaged"
        )
    timestep = np.float32(1000) * sigma
    for step, told in enumerate(timesteps):  # rounded there, but what it says counts
        if told is not None and timestep[step].astype(told.dtype) != told:
            timestep[step] = told
    return Reference(layout, shapes[0], sigma, timestep)


def read_states(directory: Path, image: int, reference: Reference) -> np.ndarray:
    """All states of an image, shape (step, channel, height, width), float32.

    Raises:
        Unreadable: if one is missing or damaged, or not like those of ``reference``.
    """
    num_states = len(reference.sigma)
    states = np.empty((num_states, *reference.latent_shape), dtype=np.float32)
    paths = old_directory.state_paths(directory, image, num_states)
    for step, path in enumerate(paths):
        states[step] = read_state(path, step, reference)
    return states


def read_state(path: Path, step: int, reference: Reference) -> np.ndarray:
    """One state, shape (channel, height, width), float32; see :func:`read_states`."""
    most_bytes = 4 * int(np.prod(reference.latent_shape)) + _HEADERS_BYTES
    try:
        state = old_directory.read_state(path, reference.layout, most_bytes)
        if state.x.shape != reference.latent_shape:
            raise Unreadable(
                f"has a state of {state.x.shape}, where other images have {reference.latent_shape}"
            )
        if state.sigma != reference.sigma[step]:
            raise Unreadable(
                f"has sigma {state.sigma}, where other images have {reference.sigma[step]}"
            )
        if not np.isfinite(state.x).all():
            raise Unreadable("has values that are infinite or NaN")
    except Unreadable as error:
        raise Unreadable(f"{path.name} ", error.message) from None
    return state.x

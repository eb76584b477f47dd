"""Hessians of layers, for rounding that makes up for its errors: sums over replayed inputs."""

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from calibzarr.collecting.replay import Replay
from calibzarr.models.base import Layer

_ITEM_SIZE = np.dtype(np.float32).itemsize


def replays(layers: Sequence[Layer], indices: Sequence[int], memory: int) -> list[list[int]]:
    """Layers whose Hessians are made in one replay of all images.

    Args:
        layers: of the model.
        indices: of linear layers, in order of depth.
        memory: bytes that the Hessians of one replay may take; those of one input always do.

    Returns:
        Indices, all those that share their input together, in order of depth.
    """
    first: dict[str, int] = {}
    for position, index in enumerate(indices):
        first.setdefault(layers[index].input_group, position)
    by_group = sorted(indices, key=lambda index: (first[layers[index].input_group], index))
    parts: list[list[int]] = []
    used = 0
    for _, members in groupby(by_group, lambda index: layers[index].input_group):
        group = list(members)
        needed = layers[group[0]].features ** 2 * _ITEM_SIZE
        if not parts or used + needed > memory:
            parts.append([])
            used = 0
        parts[-1] += group
        used += needed
    return parts


def hessians(
    replay: Replay,
    layers: Sequence[int],
    images: Sequence[int],
    steps: Sequence[int],
    proceed: Callable[[], bool],
) -> dict[int, np.ndarray] | None:
    """Sums of x x^T over the inputs x of layers, each call weighted by how far it goes in sigma.

    Args:
        replay: of the unquantized model.
        layers: indices of linear layers.
        images: indices in the store.
        steps: indices of calls.
        proceed: called after each call; whether to go on.

    Returns:
        Shape (feature, feature), float32, by layer: one array for all that share their input.
        None if it was not to go on.
    """
    sums: dict[int, np.ndarray] = {}
    sigma = replay.schedule.sigma
    for image in images:
        batch = replay.batch([image])
        for step in steps:
            width = np.float32(sigma[step] - sigma[step + 1])
            for readers, values in batch.inputs(step, layers):
                x = values.reshape(-1, values.shape[-1])
                product = x.T @ (x * width)
                if readers[0] in sums:
                    sums[readers[0]] += product
                else:
                    sums.update(dict.fromkeys(readers, product))
            if not proceed():
                return None
    return sums

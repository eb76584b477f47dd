"""What pictures have to know of the layers: their order, what there is, which to show."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from calibzarr.plots.drawing import STREAM_LINES

_KINDS = (
    *(f"attn.{name}_proj" for name in "qkvo"),
    "mlp.fc1",
    "mlp.fc2",
    "adaLN_modulation",
    "block",
)


def block_spans(dataset: xr.Dataset) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of runs of layers of one block, their first layers, and those after their last."""
    block = dataset.block.values
    starts = np.flatnonzero(np.append(True, block[1:] != block[:-1]))
    return block[starts].tolist(), starts, np.append(starts[1:], len(block))


def depth(dataset: xr.Dataset) -> np.ndarray:
    """Index of each layer's block among the blocks in the order of the model, shape (layer,)."""
    _, first, block = np.unique(dataset.block.values, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[block])


def kinds(dataset: xr.Dataset) -> list[str]:
    """Kinds of layers that there are: those of a block first, in a fixed order."""
    there = list(dict.fromkeys(dataset.kind.values.tolist()))
    return [kind for kind in _KINDS if kind in there] + [
        kind for kind in there if kind not in _KINDS
    ]


def streams(dataset: xr.Dataset) -> list[str]:
    """Streams that there are."""
    there = set(dataset.stream.values.tolist())
    return [stream for stream in STREAM_LINES if stream in there]


def most(
    values: np.ndarray, alike: np.ndarray, count: int, without: Sequence[int] = ()
) -> list[int]:
    """Layers of the greatest values, of those that read one array only the first.

    Args:
        values: shape (layer,); NaN is never chosen.
        alike: of one number for layers that read one array, shape (layer,).
        count: how many at most.
        without: layers that are not to be chosen, nor those that read the same.
    """
    order = np.argsort(-values, kind="stable")
    order = order[~np.isnan(values[order]) & ~np.isin(alike[order], alike[list(without)])]
    first = np.sort(np.unique(alike[order], return_index=True)[1])
    return [int(layer) for layer in order[first[:count]]]

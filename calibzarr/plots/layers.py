"""What pictures have to know of the layers: their order, what there is, which to show."""

from collections.abc import Sequence
from itertools import takewhile

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
_JOINED = 4  # names, at most


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
    there = dict.fromkeys(dataset.kind.values.tolist())
    return sorted(there, key=_rank)


def _rank(kind: str) -> int:
    """Place of a kind, or of kinds in one, among those of a block."""
    first, _, rest = kind.partition(",")
    suffix = rest[rest.rfind("_") :] if "_" in rest else ""
    return next(
        (i for i, known in enumerate(_KINDS) if known in (kind, first + suffix)), len(_KINDS)
    )


def together(dataset: xr.Dataset) -> xr.Dataset:
    """The first of the layers that read one array, with the names and kinds of all of them."""
    members: dict[str, list[int]] = {}
    for position, group in enumerate(dataset.input_group.values.tolist()):
        members.setdefault(group, []).append(position)
    names, kinds = (
        [joined(dataset[name].values[group].tolist()) for group in members.values()]
        for name in ("layer", "kind")
    )
    first = dataset.isel(layer=[group[0] for group in members.values()])
    return first.assign_coords(layer=("layer", names), kind=("layer", kinds))


def joined(names: Sequence[str]) -> str:
    """Names in one, with what they begin and end with in common written once.

    >>> joined(["block.attn.q_proj", "block.attn.k_proj", "block.attn.v_proj"])
    'block.attn.q,k,v_proj'
    """
    names = list(dict.fromkeys(names))
    if len(names) == 1:
        return names[0]
    if len(names) > _JOINED:
        return f"{names[0]} and {len(names) - 1} more"
    start = _alike(names)
    end = _alike([name[start:][::-1] for name in names])
    middles = [name[start : len(name) - end] for name in names]
    if not all(middles):
        return ",".join(names)
    return f"{names[0][:start]}{','.join(middles)}{names[0][len(names[0]) - end :]}"


def _alike(names: Sequence[str]) -> int:
    """Characters that all begin with."""
    places = zip(*names, strict=False)
    return sum(1 for _ in takewhile(lambda characters: len(set(characters)) == 1, places))


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

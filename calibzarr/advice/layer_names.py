"""Many layers in few words: by kind and stream, and how many of the blocks."""

from collections.abc import Iterable
from itertools import groupby

import numpy as np
import xarray as xr

_SHORT = {"attn.q_proj": "q", "attn.k_proj": "k", "attn.v_proj": "v", "attn.o_proj": "o"}


def in_words(layers: xr.Dataset, names: Iterable[str]) -> str:
    """Some of the layers, such as ``q, k, v of the image stream in all blocks``.

    Args:
        layers: with ``layer``, ``kind``, ``stream`` and ``block``.
        names: of those to name, in the order in which their kinds are to stand.
    """
    of_name = dict(zip(layers.layer.values.tolist(), range(layers.sizes["layer"]), strict=True))
    rows = [of_name[name] for name in names]
    kind, stream, block = (layers[name].values for name in ("kind", "stream", "block"))
    groups: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        groups.setdefault((str(stream[row]), str(kind[row])), []).append(row)

    def of_group(key: tuple[str, str]) -> tuple[str, str, tuple[str, ...]]:
        alike = (stream == key[0]) & (kind == key[1])
        named = {str(block[row]) for row in groups[key]}
        everywhere = len(named) == len(np.unique(block[alike]))
        return (
            key[0],
            "all" if everywhere else f"{len(named)} of {alike.sum()}",
            tuple(sorted(named)),
        )

    parts = []
    for (in_stream, share, blocks), keys in groupby(sorted(groups, key=of_group), key=of_group):
        kinds = [key[1] for key in keys]
        if len(blocks) == 1:
            parts += [
                str(layers.layer.values[row]) for one in kinds for row in groups[in_stream, one]
            ]
        else:
            short = ", ".join(_SHORT.get(one, one) for one in kinds)
            parts.append(f"{short} of the {in_stream} stream in {share} blocks")
    return "; ".join(parts)

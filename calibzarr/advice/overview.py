"""What is known of a store's layers and what they need, in one go, ready to be shown."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from calibzarr.advice import analysis, observed, recommendation, sensitivities, summary
from calibzarr.advice.choices import Sort
from calibzarr.advice.options import Options
from calibzarr.storage.manifest import Root, read_root
from calibzarr.storage.reading import open_statistics


@dataclass(frozen=True)
class Overview:
    """Of a store.

    Attributes:
        statistics: of ``reading.open_statistics``.
        activations: their histograms and extremes, in memory.
        analyzed: of ``analysis.analyze``, all layers.
        recommended: of ``recommendation.recommend``, all layers.
        chosen: the layers that were asked for, in the order that was asked for, with their bits.
        description: what it comes to, in JSON types; see ``summary.describe``.
        root: metadata of the store.
        sensitivity: what its sensitivities come to, in JSON types; see ``sensitivities.describe``.
            None if none were measured.
    """

    statistics: xr.Dataset
    activations: observed.Activations
    analyzed: xr.Dataset
    recommended: xr.Dataset
    chosen: xr.Dataset
    description: dict[str, Any]
    root: Root
    sensitivity: dict[str, Any] | None


def overview(
    path: str | Path,
    *,
    stream: str | None = None,
    kind: str | None = None,
    sort: Sort = "model",
    top: int | None = None,
) -> Overview:
    """Analyze a store's statistics, and recommend bits.

    Args:
        path: directory of the store.
        stream: of the layers to choose; all if None.
        kind: of the layers to choose; all if None.
        sort: their order.
        top: how many of them at most.

    Raises:
        OptionError: if there is no such stream, kind or order.
        StoreError: if the store has no statistics, or cannot be used.
    """
    root = read_root(Path(path))
    statistics = open_statistics(root)
    summary.filtered(statistics, stream=stream, kind=kind, sort=sort)  # refused before the work
    activations = observed.activations(statistics)
    recommended = recommendation.of_statistics(
        statistics, Options(), activations, recommendation.measured_of(root)
    )
    analyzed = analysis.of_statistics(statistics, activations)
    chosen = summary.select(
        analyzed.assign(recommended[["activation_bits", "weight_bits"]]),
        stream=stream,
        kind=kind,
        sort=sort,
        top=top,
    )
    description = summary.describe(analyzed, recommended)
    measured = sensitivities.of_store(root)
    sensitivity = None if measured is None else sensitivities.describe(measured)
    return Overview(
        statistics, activations, analyzed, recommended, chosen, description, root, sensitivity
    )

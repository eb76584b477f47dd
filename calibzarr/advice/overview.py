"""What is known of a store's layers and what they need, in one go, ready to be shown."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from calibzarr.advice import (
    analysis,
    by_bits,
    observed,
    recommendation,
    sensitivities,
    summary,
)
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
        chosen: the layers that were asked for, in the order that was asked for, with their bits;
            with ``by_bits.of_layers`` where there are sensitivities.
        description: what it comes to, in JSON types; see ``summary.describe``.
        root: metadata of the store.
        sensitivity: what its sensitivities come to, in JSON types; see ``sensitivities.describe``.
            None if none were measured.
        predicted: of ``by_bits.of_model``; None likewise.
    """

    statistics: xr.Dataset
    activations: observed.Activations
    analyzed: xr.Dataset
    recommended: xr.Dataset
    chosen: xr.Dataset
    description: dict[str, Any]
    root: Root
    sensitivity: dict[str, Any] | None
    predicted: xr.Dataset | None


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
    measured = recommendation.measured_of(root)
    recommended = recommendation.of_statistics(statistics, Options(), activations, measured)
    analyzed = analysis.of_statistics(statistics, activations)
    layers = analyzed.assign(recommended[["activation_bits", "weight_bits", "reason"]])
    predicted = None
    if measured is not None:
        evidence = by_bits.evidence_of(statistics, activations, measured)
        predicted = by_bits.of_model(evidence)
        layers = layers.assign(by_bits.of_layers(evidence, recommended))
    if recommended.attrs["by_phase"]:
        layers = layers.assign(recommended[["phase_bits"]])
    shares = sensitivities.of_store(root)
    return Overview(
        statistics=statistics,
        activations=activations,
        analyzed=analyzed,
        recommended=recommended,
        chosen=summary.select(layers, stream=stream, kind=kind, sort=sort, top=top),
        description=summary.describe(analyzed, recommended)
        | {"by_bits": None if predicted is None else by_bits.describe(predicted)},
        root=root,
        sensitivity=None if shares is None else sensitivities.describe(shares),
        predicted=predicted,
    )

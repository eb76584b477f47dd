"""What is known of a store's layers and what they need, in one go, ready to be shown."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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
from calibzarr.progress import Reporter, Silent
from calibzarr.storage.manifest import Root, read_root
from calibzarr.storage.reading import open_statistics

PARTS = ("read", "recommend", "analyze", "predict", "sum up")
"""What an analysis does, one after the other."""


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
        description: what these layers come to, in JSON types; see ``summary.describe``. ``shown``:
            how many they are; ``by_bits``: of the whole model.
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
    report: Reporter | None = None,
) -> Overview:
    """Analyze a store's statistics, and recommend bits.

    Args:
        path: directory of the store.
        stream: of the layers to choose; all if None.
        kind: of the layers to choose; all if None.
        sort: their order.
        top: how many of them at most.
        report: what to tell of each of ``PARTS``.

    Raises:
        OptionError: if there is no such stream, kind or order.
        StoreError: if the store has no statistics, or cannot be used.
    """
    report = report or Silent()
    root = read_root(Path(path))
    statistics = open_statistics(root)
    summary.filtered(statistics, stream=stream, kind=kind, sort=sort)  # refused before the work
    activations = observed.activations(statistics)
    measured = recommendation.measured_of(root)
    report.advance(1)
    recommended = recommendation.of_statistics(statistics, Options(), activations, measured)
    report.advance(1)
    analyzed = analysis.of_statistics(statistics, activations)
    report.advance(1)
    layers = analyzed.assign(recommended[["activation_bits", "weight_bits", "reason"]])
    predicted = None
    if measured is not None:
        evidence = by_bits.evidence_of(statistics, activations, measured)
        predicted = by_bits.of_model(evidence)
        layers = layers.assign(by_bits.of_layers(evidence, recommended))
    report.advance(1)
    if recommended.attrs["by_phase"]:
        layers = layers.assign(recommended[["phase_bits"]])
    chosen = summary.select(layers, stream=stream, kind=kind, sort=sort, top=top)
    names = chosen.layer.values
    shares = sensitivities.of_store(root)
    told = None if shares is None else sensitivities.describe(shares, names)
    report.advance(1)
    return Overview(
        statistics=statistics,
        activations=activations,
        analyzed=analyzed,
        recommended=recommended,
        chosen=chosen,
        description=_description(names, analyzed, recommended, predicted),
        root=root,
        sensitivity=told,
        predicted=predicted,
    )


def _description(
    names: np.ndarray, analyzed: xr.Dataset, recommended: xr.Dataset, predicted: xr.Dataset | None
) -> dict[str, Any]:
    return {
        "shown": {"layers": len(names), "of": analyzed.sizes["layer"]},
        **summary.describe(analyzed.sel(layer=names), recommended.sel(layer=names)),
        "by_bits": None if predicted is None else by_bits.describe(predicted),
    }

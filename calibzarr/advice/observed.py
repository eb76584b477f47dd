"""Statistics of a store as histograms, and where the phases of the sampling stand in them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import xarray as xr

from calibzarr.quantization.histograms import Histograms
from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.steps import phases
from calibzarr.storage.schema import ACTIVATIONS


def bins_of(statistics: xr.Dataset) -> LogBins:
    """The grid that the histograms were counted on."""
    return LogBins(**statistics.attrs[ACTIVATIONS]["bins"])


@dataclass(frozen=True)
class Activations(Histograms):
    """Every layer at every collected step, shape (layer, step), and more of some over all steps.

    Attributes:
        steps: indices of the collected ones, shape (step,).
        num_steps: model calls of a sampling.
        cached: what the caching pass alone showed at other calls, shape (row, cached step).
        cached_steps: indices of these, shape (cached step,).
        cached_observed: of which layers, shape (layer, cached step), bool.
    """

    steps: np.ndarray
    num_steps: int
    cached: Histograms
    cached_steps: np.ndarray
    cached_observed: np.ndarray

    @cached_property
    def overall(self) -> Histograms:
        """Over all steps where a layer was observed, shape (layer,)."""
        whole = [slice(None)]
        return self.over(whole).with_more(self.cached.over(whole), self._cached_rows).flat

    def over_phases(self, phases: Mapping[str, range]) -> Histograms:
        """The same by phase, shape (layer, phase); nothing for a phase that was not collected."""
        rows = self.over(_positions(self.steps, phases).values())
        return rows.with_more(self.cached.over(self._cached_in(phases)), self._cached_rows)

    def values_of_calls(self, number: np.ndarray, phases: Mapping[str, range]) -> np.ndarray:
        """Values that all calls of a phase have of a layer, shape (layer, phase), int.

        As many a call as were observed; 0 for a phase that was not collected, and the final state
        counts as a call where it is all that there is of a phase.

        Args:
            number: values that were observed, of :meth:`over_phases`, shape (layer, phase).
            phases: the same.
        """
        collected = _positions(self.steps, phases).values()
        cached = [self.cached_observed[:, steps].sum(axis=1) for steps in self._cached_in(phases)]
        observed = np.stack(cached, axis=1) + [steps.stop - steps.start for steps in collected]
        calls = [max(len(range(s.start, min(s.stop, self.num_steps))), 1) for s in phases.values()]
        values = number / np.maximum(observed, 1) * np.array(calls)
        return np.asarray(np.rint(values).astype(np.int64))

    @property
    def _cached_rows(self) -> np.ndarray:
        return _rows(self.cached_observed)

    def _cached_in(self, phases: Mapping[str, range]) -> list[slice]:
        """Where each phase that was collected stands among the other calls."""
        collected = _positions(self.steps, phases)
        return [
            steps if collected[name].stop > collected[name].start else slice(0)
            for name, steps in _positions(self.cached_steps, phases).items()
        ]


def activations(statistics: xr.Dataset) -> Activations:
    """What was observed of every layer.

    Args:
        statistics: of ``reading.open_statistics``.
    """
    if "cached_observed" in statistics:
        steps = statistics.cached_step.values
        observed = statistics.cached_observed.values
    else:  # chosen variables alone
        steps, observed = np.arange(0), np.zeros((statistics.sizes["layer"], 0), dtype=bool)
    rows = _rows(observed)
    if len(rows):
        cached = _histograms(statistics.isel(layer=rows), "cached_")
    else:
        cached = Histograms(
            bins_of(statistics),
            np.zeros((0, len(steps), statistics.sizes["bin"]), dtype=np.int64),
            *np.zeros((4, 0, len(steps))),
        )
    collected = _histograms(statistics)
    return Activations(
        **{field.name: getattr(collected, field.name) for field in fields(collected)},
        steps=statistics.step.values,
        num_steps=int(statistics.attrs["num_steps"]),
        cached=cached,
        cached_steps=steps,
        cached_observed=observed,
    )


def _rows(observed: np.ndarray) -> np.ndarray:
    """Layers that the caching pass showed at some step."""
    return np.flatnonzero(observed.any(axis=1))


def _histograms(statistics: xr.Dataset, prefix: str = "") -> Histograms:
    """Of variables whose names begin so, shape (layer, step)."""

    def values(name: str) -> np.ndarray:
        return statistics[f"{prefix}{name}"].values

    mean, std = (np.nan_to_num(values(f"value_{name}")) for name in ("mean", "std"))
    count = values("value_count")
    return Histograms(
        bins_of(statistics),
        values("histogram"),
        values("value_min"),
        values("value_max"),
        count * mean,
        count * (mean**2 + std**2),
    )


def weights(statistics: xr.Dataset) -> Histograms:
    """The weights of every layer, by their greatest magnitude: shape (layer,)."""
    reach = np.fmax.reduce(statistics.weight_feature_max.values, axis=-1)
    counts = statistics.weight_histogram.values
    return Histograms.of_counts(counts, bins_of(statistics), -reach, reach)


def phases_of(statistics: xr.Dataset) -> Mapping[str, range]:
    """The thirds of the store's sampling."""
    return phases(int(statistics.attrs["num_steps"]))


def positions(statistics: xr.Dataset, phases: Mapping[str, range]) -> dict[str, slice]:
    """Where each phase stands among the collected steps; it may be empty."""
    return _positions(statistics.step.values, phases)


def _positions(collected: np.ndarray, phases: Mapping[str, range]) -> dict[str, slice]:
    return {
        name: slice(*np.searchsorted(collected, [steps.start, steps.stop]).tolist())
        for name, steps in phases.items()
    }

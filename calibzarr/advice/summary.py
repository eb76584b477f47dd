"""What an analysis comes to: the layers that matter, and what it cannot say."""

import csv
import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from calibzarr.advice.choices import SORTS, Sort
from calibzarr.advice.layer_names import in_words
from calibzarr.errors import check_known
from calibzarr.statistics import convergence
from calibzarr.storage.schema import ACTIVATIONS

_SPREAD = 4.0  # widest feature over the median one, from where a layer stands out


def select(
    analyzed: xr.Dataset,
    *,
    stream: str | None = None,
    kind: str | None = None,
    sort: Sort = "model",
    top: int | None = None,
) -> xr.Dataset:
    """Some of the layers, in some order.

    Args:
        analyzed: a dataset with the layers' coordinates, as ``analysis.analyze`` gives it.
        stream: of the layers.
        kind: of the layers.
        sort: one of ``SORTS``; what needs most attention comes first.
        top: how many at most.

    Raises:
        OptionError: if there is no such stream, kind or order; lists near names.
    """
    analyzed = filtered(analyzed, stream=stream, kind=kind, sort=sort)
    decisive = SORTS[sort]
    if decisive is not None:
        values = analyzed[decisive]
        values = -values.sel(bits=8) if sort == "sqnr" else abs(values)
        order = np.argsort(-np.nan_to_num(values.values, nan=-np.inf), kind="stable")
        analyzed = analyzed.isel(layer=order)
    return analyzed.isel(layer=slice(top))


def filtered(
    dataset: xr.Dataset, *, stream: str | None = None, kind: str | None = None, sort: Sort = "model"
) -> xr.Dataset:
    """The layers that :func:`select` chooses from, of any dataset of layers.

    Raises:
        OptionError: if there is no such stream, kind or order; lists near names.
    """
    for name, value in (("stream", stream), ("kind", kind)):
        if value is not None:
            check_known(name, value, list(dict.fromkeys(dataset[name].values.tolist())))
            dataset = dataset.isel(layer=np.flatnonzero(dataset[name].values == value))
    check_known("sort", sort, list(SORTS))
    return dataset


def describe(analyzed: xr.Dataset, recommended: xr.Dataset) -> dict[str, Any]:
    """What the figures of all layers come to, in JSON types.

    Args:
        analyzed: of ``analysis.of_statistics``.
        recommended: of ``recommendation.of_statistics``, of the same statistics.

    Returns:
        ``bits``: layers by recommended bits, of activations and of weights; ``recommended``: what
        these do, see ``predicted.described``; ``features``, layers whose features differ much:
        the index of the widest, and how many times the median range its own is, and which these
        are in words; ``images``:
        whether there were enough; ``not_covered``: what nothing is known of, a sentence each.
    """
    linear = analyzed.role.values == "input"
    activation, weight = (
        recommended[f"{values}_bits"].values[linear] for values in ("activation", "weight")
    )
    spread = np.where(linear, analyzed.feature_spread.values, np.nan)
    widest = dict(zip(analyzed.layer.values, analyzed.widest_feature.values, strict=True))
    spread_of = _greatest(analyzed, spread, _SPREAD)
    return {
        "bits": {
            "activations": _by_bits(activation),
            "weights": _by_bits(weight),
        },
        "recommended": dict(recommended.attrs["prediction"]),
        "features": {
            layer: {"feature": int(widest[layer]), "spread": times}
            for layer, times in spread_of.items()
        },
        "features_in_words": in_words(analyzed, spread_of),
        "images": _images(analyzed),
        "not_covered": _not_covered(analyzed, recommended),
    }


def _by_bits(bits: np.ndarray) -> dict[str, int]:
    numbers, counts = np.unique(bits, return_counts=True)
    return dict(zip(map(str, numbers.tolist()), counts.tolist(), strict=True))


def _greatest(analyzed: xr.Dataset, values: np.ndarray, least: float) -> dict[str, float]:
    """The layers of the greatest values, with these, from a least value on."""
    known = np.where(np.isfinite(values), values, -np.inf)
    order = [row for row in np.argsort(-known, kind="stable") if known[row] >= least]
    return {str(analyzed.layer.values[row]): round(float(values[row]), 3) for row in order}


def _images(analyzed: xr.Dataset) -> dict[str, Any]:
    growth = analyzed.range_growth.values
    known = np.isfinite(growth)
    number = int(analyzed.attrs[ACTIVATIONS]["num_images"])
    if not known.any():
        return {"number": number, "enough": None, "median_growth": None, "worst": {}}
    still_growing = ~convergence.enough(growth[known, None])
    worst = _greatest(analyzed, growth, convergence.TOLERANCE)
    return {
        "number": number,
        "enough": not still_growing.any(),
        "median_growth": round(float(np.median(growth[known])), 4),
        "worst": worst,
    }


def _not_covered(analyzed: xr.Dataset, recommended: xr.Dataset) -> list[str]:
    manifest = analyzed.attrs
    activations, states = manifest[ACTIVATIONS], int(manifest["num_steps"]) + 1
    sentences = []
    steps = len(activations["steps"])
    if steps < states:
        sentences.append(
            f"{states - steps} of {states} steps were not collected; they are taken to be like "
            f"their neighbours"
        )
    collected = np.array(activations["steps"])[:, None]
    first, end = recommended.first_step.values, recommended.end_step.values
    inside = ((collected >= first) & (collected < end)).any(axis=0)
    absent = recommended.phase.values[~inside].tolist()
    if absent:
        sentences.append(f"nothing was collected in {', '.join(absent)}")
    images = int(activations["num_images"])
    if images < manifest["num_images"]:
        sentences.append(
            f"{manifest['num_images'] - images} images of the store were not collected"
        )
    return sentences


def rows(chosen: xr.Dataset) -> list[dict[str, Any]]:
    """Layers of :func:`select` in JSON types; None where a figure is unknown or infinite.

    What is by bits, or by phase, has a name for each: ``sqnr_db_4``, ``phase_bits_early``.
    """
    columns = {"layer": chosen.layer.values.tolist()}
    columns |= {
        str(name): array.values.tolist()
        for name, array in chosen.variables.items()
        if array.dims == ("layer",)
    }
    for name, array in chosen.data_vars.items():
        for dim in {"bits", "phase"} & set(array.dims) if array.ndim == 2 else ():
            for at in chosen[dim].values.tolist():
                columns[f"{name}_{at}"] = array.sel({dim: at}).values.tolist()
    return [
        {
            name: value if not isinstance(value, float) or np.isfinite(value) else None
            for name, value in zip(columns, row, strict=True)
        }
        for row in zip(*columns.values(), strict=True)
    ]


def csv_text(chosen: xr.Dataset) -> str:
    """Layers of :func:`select` as a table with a line of names; empty where nothing is known."""
    table, file = rows(chosen), io.StringIO()
    writer = csv.DictWriter(file, table[0] if table else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return file.getvalue()


def units(chosen: xr.Dataset) -> dict[str, str]:
    """Units of the columns of :func:`rows` that have one."""
    table = rows(chosen.isel(layer=slice(1)))
    found = {name: _unit(name) for name in (table[0] if table else ())}
    return {name: unit for name, unit in found.items() if unit}


def _unit(column: str) -> str:
    if re.search(r"_db(_\d+)?$", column):
        return "dB"
    if re.match(r"(activation|weight|phase)_bits", column):
        return "bit"
    if column in ("value_range", "central_range"):
        return "activation units"
    ratios = "outlier_ratio sigma_variation asymmetry feature_spread range_growth mean_error"
    return "1" if column in ratios.split() or re.search(r"_bit_(cost|gain|loss)$", column) else ""


def cost_and_gain(prediction: Mapping[str, Any]) -> str:
    """What bits cost, and what they gain over uniform bits, of ``predicted.described``."""
    parts = [
        f"{prediction[f'{kind}_bits']:.3f} {words}"
        for kind, words in (("weight", "bits per weight"), ("activation", "bits of activations"))
        if prediction[f"{kind}_bits"] is not None
    ]
    parts.append(f"{prediction['weight_bytes'] / 2**20:.2f} MiB of weights")
    figures = (
        ("output SQNR", "output_sqnr_db", "gain_db"),
        ("picture PSNR", "picture_psnr_db", "picture_gain_db"),
    )
    for words, name, gain in figures:
        if prediction[name] is not None:
            over = prediction[gain]
            parts.append(f"{words} {prediction[name]:.1f} dB")
            parts[-1] += "" if over is None else f", {over:+.1f} dB against uniform bits"
    return "recommended for the whole model: " + "; ".join(parts)


def sentences(description: dict[str, Any]) -> list[str]:
    """What :func:`describe` found, for people."""
    lines = []
    for values, numbers in description["bits"].items():
        counted = ", ".join(f"{number} with {bits}" for bits, number in numbers.items() if number)
        lines.append(f"bits of {values}: {counted}")
    lines.append(cost_and_gain(description["recommended"]))
    lines.append(f"features stand out: {description['features_in_words'] or 'none'}")
    if description["features"]:
        layer, found = next(iter(description["features"].items()))
        times = f"{found['spread']:.3g} times the median range"
        lines.append(f"  most: feature {found['feature']} of {layer}, {times}")
    images = description["images"]
    if images["enough"] is None:
        lines.append(f"{images['number']} images: too few to tell whether they were enough")
    else:
        verdict = "enough" if images["enough"] else "not enough for all layers"
        lines.append(
            f"{images['number']} images: {verdict}; their ranges are {images['median_growth']:.1%} "
            f"wider than those of half of them (median layer)"
        )
        if images["worst"]:
            layer, growth = next(iter(images["worst"].items()))
            lines.append(f"  still growing most: {layer}, by {growth:.1%}; collect more images")
    lines += [f"not known: {sentence}" for sentence in description["not_covered"]]
    return lines

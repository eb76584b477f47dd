"""Pictures of ranges: by kind of layer, and by feature."""

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from calibzarr.advice import analysis
from calibzarr.plots import drawing
from calibzarr.plots import layers as model_layers
from calibzarr.plots.drawing import picture
from calibzarr.quantization import features as feature_advice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

UNITS = "range of values (activation units)"
_FEATURE_LAYERS = 4


@picture
def range_by_kind(analyzed: xr.Dataset) -> "Figure":
    """Draw the range of every layer against sigma, layers of one kind together.

    Layers that read one array are drawn once.

    Args:
        analyzed: of ``analysis.of_statistics``.
    """
    analyzed = model_layers.together(analyzed)
    kinds = model_layers.kinds(analyzed)
    panels = drawing.panels(
        analyzed,
        "Range against sigma, by kind of layer",
        len(kinds),
        columns=4,
        size=(2.6, 2.2),
        margin=(1.6, 1.3),
    )
    sigma, colours = analyzed.sigma.values, _by_depth(analyzed)
    analyzed = analyzed.assign(depth=("layer", model_layers.depth(analyzed)))
    for index, (axes, kind) in enumerate(zip(panels.axes, kinds, strict=True)):
        axes.set_title(kind)
        of_kind = analyzed.isel(layer=np.flatnonzero(analyzed.kind.values == kind))
        for stream in model_layers.streams(analyzed):
            _draw_curves(axes, of_kind, stream, colours)
        values = of_kind.step_range.values.astype(np.float64)
        if np.isfinite(values).any():
            drawing.scale(axes, "y", values)
            drawing.sigma_axis(axes, sigma, label=panels.at_bottom(index))
        else:
            drawing.say(axes)
        axes.grid(alpha=0.3)
    panels.figure.supylabel(f"{UNITS}; a scale for each panel", fontsize=8)
    bar = panels.figure.colorbar(colours, ax=panels.axes, aspect=40, pad=0.02)
    _name_blocks(bar, analyzed)
    _explain_lines(panels.figure, model_layers.streams(analyzed))
    return panels.figure


def _by_depth(analyzed: xr.Dataset) -> "ScalarMappable":
    """A colour for each block, by its index."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    count = int(model_layers.depth(analyzed).max()) + 1
    # The palest end of the map is hard to see on white.
    colours = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.9, count)))
    return ScalarMappable(BoundaryNorm(np.arange(count + 1) - 0.5, count), colours)


def _draw_curves(
    axes: "Axes", analyzed: xr.Dataset, stream: str, colours: "ScalarMappable"
) -> None:
    """Ranges of the layers of one kind and stream, and their median."""
    of_stream = analyzed.isel(layer=np.flatnonzero(analyzed.stream.values == stream))
    values, sigma = of_stream.step_range.values.astype(np.float64), analyzed.sigma.values
    marker = "." if len(sigma) < 4 else ""
    line: dict[str, Any] = {"linestyle": drawing.STREAM_LINES[stream], "marker": marker}
    for layer, curve in enumerate(axes.plot(sigma, values.T, **line)):
        name, block = of_stream.layer.values[layer], of_stream.depth.values[layer]
        curve.set(color=colours.to_rgba(block), linewidth=0.8, alpha=0.8)
        curve.set_label(f"_{name}")
    if len(values) > 2:
        median = _median(values)
        axes.plot(sigma, median, color="black", linewidth=1.8, label="_median", **line)


def _explain_lines(figure: "Figure", streams: list[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        *(
            Line2D([], [], color="0.4", ls=drawing.STREAM_LINES[stream], label=stream)
            for stream in streams
        ),
        Line2D([], [], color="black", linewidth=1.8, label="median of layers"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def _median(values: np.ndarray) -> np.ndarray:
    """Median over layers of what is not NaN, shape (step,)."""
    known = ~np.isnan(values).all(axis=0)
    result = np.full(values.shape[1], np.nan)
    result[known] = np.nanmedian(values[:, known], axis=0)
    return result


def _name_blocks(bar: Any, analyzed: xr.Dataset) -> None:
    names = list(dict.fromkeys(analyzed.block.values.tolist()))
    kept = drawing.thinned(len(names), 12, 1)
    bar.set_ticks(kept, labels=[names[index] for index in kept])
    bar.ax.set_title("block", fontsize=8, pad=10)


def feature_layers(statistics: xr.Dataset, analyzed: xr.Dataset) -> list[str]:
    """The layers whose features differ most, of those that read one array only the first."""
    spread = np.where(np.isfinite(analyzed.feature_spread), analyzed.feature_spread, np.nan)
    chosen = model_layers.most(spread, analysis.shared_inputs(statistics), _FEATURE_LAYERS)
    return [str(name) for name in analyzed.layer.values[chosen]]


@picture
def feature_ranges(
    statistics: xr.Dataset, analyzed: xr.Dataset, layers: list[str] | None = None
) -> "Figure":
    """Draw the range of every feature, the widest first, with the outlier features marked.

    Args:
        statistics: of ``reading.open_statistics``.
        analyzed: of ``analysis.of_statistics``.
        layers: names; those of :func:`feature_layers` if None.
    """
    names = feature_layers(statistics, analyzed) if layers is None else layers
    panels = drawing.panels(
        analyzed,
        "Ranges of features, widest first",
        len(names),
        columns=2,
        size=(4.4, 2.8),
        margin=(0, 0.9),
    )
    if not names:
        return panels.figure
    chosen = statistics[["feature_min", "feature_max"]].sel(layer=names)
    low, high = (chosen[name].values for name in ("feature_min", "feature_max"))
    outlier = feature_advice.outliers(feature_advice.feature_ranges(low, high))
    ranges = np.fmax.reduce(high, axis=1) - np.fmin.reduce(low, axis=1)
    for row, axes in enumerate(panels.axes):
        _draw_features(axes, ranges[row].astype(np.float64), outlier[row])
        axes.set_title(f"{names[row]}\n{axes.get_title(loc='left')}")
        if panels.at_bottom(row):
            axes.set_xlabel("feature, by rank of its range")
    panels.figure.supylabel(UNITS, fontsize=8)
    panels.legend_of_first()
    return panels.figure


def _draw_features(axes: "Axes", ranges: np.ndarray, outlier: np.ndarray) -> None:
    """One layer's features; shapes (feature,), NaN beyond its width."""
    order = np.argsort(-ranges, kind="stable")
    order = order[: np.isfinite(ranges).sum()]  # NaN come last
    if not len(order):
        drawing.say(axes)
        return
    rank = np.arange(1, len(order) + 1)
    marked = outlier[order]
    axes.plot(rank, ranges[order], color=drawing.BLUE, linewidth=1.5, label="features")
    axes.plot(
        rank[marked],
        ranges[order][marked],
        linestyle="",
        marker="o",
        markersize=4,
        color=drawing.RED,
        label="outlier features",
    )
    positive = drawing.above_zero(ranges)
    middle = float(np.median(positive)) if len(positive) else np.nan
    axes.axhline(middle, color="0.4", linestyle=":", linewidth=1, label="median")
    axes.axhline(
        feature_advice.OUTLIER_FACTOR * middle,
        color=drawing.RED,
        linestyle="--",
        linewidth=1,
        label=f"{feature_advice.OUTLIER_FACTOR:g} times the median",
    )
    drawing.scale(axes, "x", rank)
    drawing.scale(axes, "y", ranges)
    axes.grid(alpha=0.3)
    text = f"{marked.sum()} of {len(order)} features are outliers"
    if marked.any():
        text += f"; the widest is feature {order[0]}"
    axes.set_title(text)

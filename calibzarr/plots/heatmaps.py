"""Pictures of every layer at every collected step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from calibzarr.plots import drawing
from calibzarr.plots import layers as model_layers
from calibzarr.plots.drawing import LINE_HEIGHT, POINTS_PER_INCH, SMALL, picture
from calibzarr.plots.ranges import UNITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 0.135  # inches, so that a layer's name fits
_NAMED = 100  # more layers than this share the names of their blocks
_TALLEST = 11.0  # inches, with blocks' names
_BITS = (8, 4)
_MOST = (0.02, 0.98)  # quantiles that the colours of most values are between


@dataclass(frozen=True)
class _Map:
    """What one heatmap shows.

    Attributes:
        values: shape (layer, step); NaN where there are none.
        label: of its colours.
        logarithmic: whether colours go by logarithms.
        few_beyond: whether the least and the greatest values are beyond the colours.
    """

    values: np.ndarray
    label: str
    logarithmic: bool = False
    few_beyond: bool = False


@picture
def range_by_sigma(analyzed: xr.Dataset) -> "Figure":
    """Draw the range of every layer, in the order of the model, at every collected step.

    Once in activation units, and once over the layer's greatest range. Layers that read one array
    are drawn once.

    Args:
        analyzed: of ``analysis.of_statistics``.
    """
    analyzed = model_layers.together(analyzed)
    values = analyzed.step_range.values.astype(np.float64)
    greatest = np.fmax.reduce(values, axis=1)[:, None]
    relative = values / np.where(greatest > 0, greatest, np.nan)
    return _heatmaps(
        analyzed,
        "Range by layer and step",
        [
            _Map(values, UNITS, drawing.spans_decades(values)),
            _Map(relative, "range over the layer's greatest"),
        ],
    )


@picture
def sqnr_by_step(analyzed: xr.Dataset) -> "Figure":
    """Draw the expected SQNR of every layer's activations at every collected step.

    Layers that read one array are drawn once.

    Args:
        analyzed: of ``analysis.of_statistics``.
    """
    analyzed = model_layers.together(analyzed)
    return _heatmaps(
        analyzed,
        "Expected SQNR by layer and step, each step with its best clipping range",
        [
            _Map(
                _finite(analyzed.step_sqnr_db.sel(bits=bits).values),
                f"SQNR with {bits} bits (dB)",
                few_beyond=True,
            )
            for bits in _BITS
        ],
    )


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)


def _heatmaps(analyzed: xr.Dataset, title: str, maps: Sequence[_Map]) -> "Figure":
    layers, steps = maps[0].values.shape
    height = max(2.5, _ROW * layers) if layers <= _NAMED else _TALLEST
    width = float(np.clip(0.17 * steps, 3.5, 9.0))
    figure = drawing.new_figure(analyzed, title, len(maps) * (width + 0.8) + 3, height + 1.8)
    strip, *drawn = figure.subplots(
        1, 1 + len(maps), sharey=True, width_ratios=[0.12, *(width for _ in maps)]
    )
    for axes, shown in zip(drawn, maps, strict=True):
        _draw(axes, shown)
        _label_steps(axes, analyzed, width)
        starts = model_layers.block_spans(analyzed)[1]
        axes.hlines(starts[1:] - 0.5, *axes.get_xlim(), color="white", linewidth=0.8)
        axes.tick_params(left=False, labelleft=False)
    _stream_strip(strip, analyzed)
    _label_layers(strip, analyzed, height)
    return figure


def _draw(axes: "Axes", shown: _Map) -> None:
    import matplotlib
    from matplotlib.colors import LogNorm, Normalize

    layers, steps = shown.values.shape
    values = shown.values
    if shown.logarithmic:
        values = np.where(values > 0, values, np.nan)
    known = values[np.isfinite(values)]
    if not known.size:
        axes.set(xlim=(-0.5, steps - 0.5), ylim=(layers - 0.5, -0.5))
        axes.text(0.5, 0.5, "no values", ha="center", transform=axes.transAxes)
        return
    low, high = known.min(), known.max()
    if shown.few_beyond:
        low, high = np.quantile(known, _MOST)
    elif not shown.logarithmic:
        low = min(0, low)
    norm = (LogNorm if shown.logarithmic else Normalize)(low, high if high > low else low + 1)
    image = axes.imshow(
        np.ma.masked_invalid(values),
        norm=norm,
        cmap=matplotlib.colormaps["viridis"].with_extremes(bad="0.85"),
        aspect="auto",
        interpolation="nearest",
        origin="upper",
    )
    image.set_rasterized(True)  # in an SVG at our resolution, not at its own of 72 dpi
    label = f"{shown.label}, logarithmic" if shown.logarithmic else shown.label
    extend = "both" if shown.few_beyond else "neither"
    bar = axes.figure.colorbar(image, ax=axes, label=label, aspect=40, pad=0.02, extend=extend)
    if shown.logarithmic:
        drawing.label_logarithms(bar.ax.yaxis, high / low)


def _label_steps(axes: "Axes", analyzed: xr.Dataset, width: float) -> None:
    """Sigma of the columns below, the numbers of their steps above."""
    sigma, step = analyzed.sigma.values, analyzed.step.values
    points = width * POINTS_PER_INCH
    below = drawing.thinned(len(sigma), points, SMALL * LINE_HEIGHT)
    axes.set_xticks(below, [f"{sigma[index]:.3g}" for index in below], rotation=90)
    axes.set_xlabel("sigma of the collected steps")
    above = drawing.thinned(len(step), points, SMALL * 3.0)
    top = axes.secondary_xaxis("top")
    top.set_xticks(above, [str(step[index]) for index in above])
    top.set_xlabel("step")


def _stream_strip(strip: "Axes", analyzed: xr.Dataset) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    there = model_layers.streams(analyzed)
    colours = [drawing.STREAM_COLOURS[stream] for stream in there]
    colour = np.array([there.index(stream) for stream in analyzed.stream.values])
    strip.imshow(
        colour[:, None],
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(there) - 0.5,
        aspect="auto",
        interpolation="nearest",
    )
    strip.set_xticks([])
    strip.figure.legend(
        handles=[
            Patch(color=colour_of_stream, label=f"{name} stream")
            for colour_of_stream, name in zip(colours, there, strict=True)
        ],
        loc="outside lower center",
        ncols=len(there),
    )


def _label_layers(strip: "Axes", analyzed: xr.Dataset, height: float) -> None:
    """Names of layers where they fit, else those of blocks, moved apart where they must be."""
    names, starts, ends = model_layers.block_spans(analyzed)
    layers = analyzed.sizes["layer"]
    if layers <= _NAMED:
        strip.set_yticks(np.arange(layers), analyzed.layer.values, fontsize=SMALL - 1)
        return
    apart = SMALL * LINE_HEIGHT / (height * 0.95 * POINTS_PER_INCH) * layers
    kept = drawing.thinned(len(names), layers, apart)
    middles = (starts + ends - 1) / 2
    heights = drawing.spread_out(middles[kept], apart, 0, layers - 1)
    strip.set_yticks([])
    for index, moved in zip(kept, heights, strict=True):
        strip.annotate(
            names[index],
            (0, middles[index]),
            (-1.8, moved),
            xycoords=strip.get_yaxis_transform(),
            textcoords=strip.get_yaxis_transform(),
            fontsize=SMALL,
            ha="right",
            va="center",
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "shrinkA": 1, "shrinkB": 0},
        )

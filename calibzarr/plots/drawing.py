"""What all pictures share: their style, their scales, their labels, and how they are written."""

import functools
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import xarray as xr

from calibzarr.storage import durable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS_PER_INCH = 72
SMALL = 7  # points, of labels that there are many of
LINE_HEIGHT = 1.35  # of a line of text over its size

# Okabe and Ito's colours, which colour-blind people can tell apart.
ORANGE, BLUE, RED = "#e69f00", "#0072b2", "#d55e00"
SKY, GREEN, PURPLE, GREY = "#56b4e9", "#009e73", "#cc79a7", "#999999"

STREAM_LINES = {"image": "-", "text": "--", "unified": ":"}
STREAM_COLOURS = {"image": BLUE, "text": ORANGE, "unified": GREY}
_STYLE = {
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "figure.dpi": 150,
    "figure.titlesize": 12,
    "font.size": 8,
    "image.composite_image": False,
    "legend.fontsize": SMALL,
    "legend.framealpha": 0.9,
    "svg.hashsalt": "calibzarr",  # else identifiers differ from run to run
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
}
_DECADE = 10.0
_NONE = "no values"

_Arguments = ParamSpec("_Arguments")


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's own defaults and ours within the block, whatever the user has set.

    Raises:
        ModuleNotFoundError: if Matplotlib is not installed; says how to.
    """
    check_installed()
    import matplotlib.style

    with matplotlib.style.context(["default", _STYLE]):
        yield


def check_installed() -> None:
    """Check that pictures can be drawn.

    Raises:
        ModuleNotFoundError: if Matplotlib is not installed; says how to.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ModuleNotFoundError(
            "pictures need matplotlib, which is not installed; "
            f"install it with: {'uv pip' if 'UV' in os.environ else 'pip'} install matplotlib",
            name=error.name,
        ) from error


def picture(draw: "Callable[_Arguments, Figure]") -> "Callable[_Arguments, Figure]":
    """Let a function that draws a picture draw it in the style."""

    @functools.wraps(draw)
    def styled(*args: _Arguments.args, **options: _Arguments.kwargs) -> "Figure":
        with style():
            return draw(*args, **options)

    return styled


def save(figure: "Figure", directory: Path, name: str) -> list[Path]:
    """Write a picture as PNG and as SVG, each file whole; the same bytes every time.

    Raises:
        OSError: if one cannot be written. What stood under its name stays.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    png, svg = io.BytesIO(), io.BytesIO()
    with style():
        raster: Any = FigureCanvasAgg(figure)  # its methods are not typed
        raster.print_png(png)
        figure.set_layout_engine("none")  # all has its place by now
        vectors: Any = FigureCanvasSVG(figure)
        vectors.print_svg(svg, metadata={"Date": None})
    paths = []
    for suffix, file in (("png", png), ("svg", svg)):
        paths.append(directory / f"{name}.{suffix}")
        durable.write(paths[-1], file.getbuffer())
    return paths


def new_figure(dataset: xr.Dataset, title: str, width: float, height: float) -> "Figure":
    """An empty figure with a title that names the model.

    Args:
        dataset: with the attributes of the store.
        title: what the picture shows.
        width: inches.
        height: inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    model = dataset.attrs.get("model")
    figure.suptitle(f"{title}: {model}" if model else title)
    return figure


@dataclass(frozen=True)
class Panels:
    """A figure of axes in rows, one where there is nothing to draw.

    Attributes:
        figure: that they are in.
        axes: in the order of reading.
        columns: axes of a full row.
    """

    figure: "Figure"
    axes: "list[Axes]"
    columns: int

    def at_bottom(self, index: int) -> bool:
        """Whether no other panel is below this one."""
        return index >= len(self.axes) - self.columns

    def legend_of_first(self, ncols: int | None = None) -> None:
        """A legend below, of what the first panel shows."""
        handles, labels = self.axes[0].get_legend_handles_labels()
        columns = len(handles) if ncols is None else ncols
        self.figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def panels(
    dataset: xr.Dataset,
    title: str,
    count: int,
    *,
    columns: int,
    size: tuple[float, float],
    margin: tuple[float, float],
) -> Panels:
    """A figure of panels; it says so where there are none.

    Args:
        dataset: with the attributes of the store.
        title: what the picture shows.
        count: number of panels.
        columns: of a full row, at most.
        size: width and height of a panel, inches.
        margin: what the figure has beyond them, likewise.
    """
    shown = max(1, count)
    columns = min(columns, shown)
    rows = -(-shown // columns)
    width, height = size[0] * columns + margin[0], size[1] * rows + margin[1]
    figure = new_figure(dataset, title, width, height)
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(shown)]
    if not count:
        say(axes[0])
    return Panels(figure, axes, columns)


def say(axes: "Axes", text: str = _NONE) -> None:
    """Write a text in the place of values that there are none of."""
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, ha="center", va="center", color="0.4", transform=axes.transAxes)


def spans_decades(values: np.ndarray) -> bool:
    """Whether the greatest value is more than ten times the least that is above 0."""
    positive = above_zero(values)
    return len(positive) > 0 and bool(positive.max() > _DECADE * positive.min())


def above_zero(values: np.ndarray) -> np.ndarray:
    """The finite values above 0, in one dimension."""
    return np.asarray(values[np.isfinite(values) & (values > 0)])


def scale(axes: "Axes", which: str, values: np.ndarray) -> None:
    """Scale an axis for magnitudes: by their logarithms where they span more than a decade.

    Args:
        axes: where the values are drawn already.
        which: ``x`` or ``y``.
        values: that are drawn, any shape.
    """
    positive = above_zero(values)
    if not spans_decades(values):
        if which == "y" and len(positive):
            axes.set_ylim(0, 1.08 * positive.max())
        return
    {"x": axes.set_xscale, "y": axes.set_yscale}[which]("log", nonpositive="mask")
    label_logarithms({"x": axes.xaxis, "y": axes.yaxis}[which], positive.max() / positive.min())
    corner, offset = {"x": ((1, 0), (-2, 2)), "y": ((1, 1), (0, 2))}[which]
    axes.annotate(
        f"log {which}",
        corner,
        offset,
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=6,
        color="0.4",
        ha="right",
    )


def label_logarithms(axis: Any, ratio: float) -> None:
    """Plain numbers at the ticks of a logarithmic axis, as many as its ratio of ends needs."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    subdivisions = (1.0, 2.0, 5.0) if ratio < _DECADE**2 else (1.0,)
    if ratio > _DECADE**4:
        axis.set_minor_locator(NullLocator())
    axis.set_major_locator(LogLocator(_DECADE, subs=subdivisions, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def scale_signed(axes: "Axes", which: str, width: float, reach: float, length: float) -> None:
    """Scale an axis by the inverse hyperbolic sine: linear near 0, logarithmic far from it.

    Args:
        axes: where the values are drawn already.
        which: ``x`` or ``y``.
        width: magnitude at which one becomes the other, activation units.
        reach: greatest magnitude, activation units.
        length: of the axis, points.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    {"x": axes.set_xscale, "y": axes.set_yscale}[which]("asinh", linear_width=width)
    axis = {"x": axes.xaxis, "y": axes.yaxis}[which]
    needed = 5 * SMALL if which == "x" else 2 * SMALL
    apart = needed / length * 2 * np.arcsinh(reach / width)
    ticks = [0.0]
    powers = 10.0 ** np.arange(np.floor(np.log10(width)) - 1, np.ceil(np.log10(reach)) + 1)
    for tick in (*powers, *5 * powers, *2 * powers):  # round ones first
        distance = np.abs(np.arcsinh(tick / width) - np.arcsinh(np.array(ticks) / width))
        if distance.min() >= apart:
            ticks.append(float(tick))
    ticks.sort()
    axis.set_major_locator(FixedLocator([*(-tick for tick in ticks[:0:-1]), *ticks]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def sigma_axis(axes: "Axes", sigma: np.ndarray, *, label: bool = True) -> None:
    """Let sigma fall from left to right, as the sampling goes; call it after drawing."""
    low, high = float(sigma.min()), float(sigma.max())
    margin = 0.03 * (high - low) or 0.5
    axes.set_xlim(high + margin, low - margin)
    if label:
        axes.set_xlabel("sigma, falling as the sampling goes")


def thinned(count: int, space: float, needed: float) -> np.ndarray:
    """Positions whose labels do not overlap.

    Args:
        count: number of positions.
        space: that they have together, any unit.
        needed: what a label needs, the same unit.
    """
    return np.arange(0, count, max(1, int(np.ceil(count * needed / space))))


def spread_out(wanted: np.ndarray, apart: float, low: float, high: float) -> np.ndarray:
    """Positions nearest to the wanted ones, in squares, that are far enough apart.

    Isotonic regression of what is left when each is moved back by those before it.

    Args:
        wanted: rising, shape (label,).
        apart: least distance of neighbours.
        low: least position.
        high: greatest position; it must leave room for all.

    Returns:
        Shape (label,).
    """
    moved = wanted - apart * np.arange(len(wanted))
    sums = np.append(0, np.cumsum(moved))
    first, last = np.ogrid[: len(moved), : len(moved)]
    means = (sums[last + 1] - sums[first]) / np.maximum(last - first + 1, 1)
    from_first = np.where(last >= first, means, np.inf)  # (first, last)
    least = np.minimum.accumulate(from_first[:, ::-1], axis=1)[:, ::-1]  # over later last
    fitted = np.where(first <= last, least, -np.inf).max(axis=0)
    top = high - apart * (len(wanted) - 1)
    return np.asarray(np.clip(fitted, low, max(low, top)) + apart * np.arange(len(wanted)))

"""Pictures of what is expected and recommended: SQNR, bits, and whether the images were enough."""

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from calibzarr.advice import analysis
from calibzarr.advice.methods.base import CHOICES
from calibzarr.plots import drawing
from calibzarr.plots.drawing import SMALL, picture
from calibzarr.statistics.convergence import TOLERANCE, range_curve

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAND = (0.1, 0.9)  # quantiles over layers
_CELL = 0.23  # inches, of a table of bits
_SIZES = 40  # numbers of images that a curve is computed at
_WORST = 3


@picture
def sqnr_by_bits(analyzed: xr.Dataset) -> "Figure":
    """Draw the expected SQNR of activations and weights against bits, by kind of layer.

    Args:
        analyzed: of ``analysis.of_statistics``.
    """
    kinds = drawing.kinds(analyzed)
    columns = min(4, len(kinds))
    rows = -(-len(kinds) // columns)
    figure = drawing.new_figure(
        analyzed,
        "Expected SQNR against bits, each with its best clipping range",
        2.6 * columns + 0.6,
        2.3 * rows + 1.2,
    )
    series = (
        ("activations", analyzed.sqnr_db.values, drawing.BLUE, "o"),
        ("weights", analyzed.weight_sqnr_db.values, drawing.ORANGE, "s"),
    )
    drawn = drawing.panels(figure, len(kinds), columns)
    handles: dict[str, Artist] = {}
    for index, (axes, kind) in enumerate(zip(drawn, kinds, strict=True)):
        own = np.flatnonzero(analyzed.kind.values == kind)
        axes.set_title(f"{kind} ({len(own)})", pad=14)
        bits = analyzed.bits.values
        drew = [
            _draw_sqnr(axes, bits, values[own], label, colour, marker)
            for label, values, colour, marker in series
        ]
        if any(drew):
            worst = _worst(analyzed.sqnr_db.values[own, -1])
            if worst is not None and len(own) > 1:
                _note(axes, f"worst activations: {analyzed.layer.values[own[worst]]}")
                curve = _finite(analyzed.sqnr_db.values[own[worst]])
                axes.plot(
                    bits,
                    curve,
                    color=drawing.RED,
                    ls="--",
                    lw=1.2,
                    label="activations, worst layer",
                )
            axes.set_xticks(bits)
            axes.grid(alpha=0.3)
        else:
            drawing.say(axes)
        if index >= len(kinds) - columns:
            axes.set_xlabel("bits")
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    figure.supylabel("SQNR (dB)", fontsize=8)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    return figure


def _finite(values: np.ndarray) -> np.ndarray:
    """NaN in the place of infinities: no error at all cannot be drawn."""
    return np.where(np.isfinite(values), values, np.nan)


def _draw_sqnr(
    axes: "Axes", bits: np.ndarray, values: np.ndarray, label: str, colour: str, marker: str
) -> bool:
    """Median and band over layers, shape (layer, bits); whether there was anything to draw."""
    known = _finite(values)
    known = known[np.isfinite(known).all(axis=1)]
    if not len(known):
        return False
    low, middle, high = np.quantile(known, [_BAND[0], 0.5, _BAND[1]], axis=0)
    if len(known) > 1:
        share = f"{_BAND[1] - _BAND[0]:.0%} of layers"
        axes.fill_between(
            bits, low, high, color=colour, alpha=0.25, linewidth=0, label=f"{label}, {share}"
        )
    axes.plot(
        bits, middle, color=colour, marker=marker, markersize=3, label=f"{label}, median layer"
    )
    return True


def _worst(values: np.ndarray) -> int | None:
    known = np.isfinite(values)
    return int(np.where(known, values, np.inf).argmin()) if known.any() else None


def _note(axes: "Axes", text: str) -> None:
    """A small line between an axes and its title."""
    axes.annotate(
        text, (0, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", fontsize=6
    )


@picture
def recommended_bits(recommended: xr.Dataset) -> "Figure":
    """Draw the recommended bits of every layer, by block and kind, with the number in each cell.

    Args:
        recommended: of ``recommendation.of_statistics``.
    """
    import matplotlib
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    blocks = list(dict.fromkeys(recommended.block.values.tolist()))
    rows = [
        (stream, kind)
        for stream in drawing.streams(recommended)
        for kind in drawing.kinds(recommended)
        if ((recommended.stream == stream) & (recommended.kind == kind)).any()
    ]
    place = {row: index for index, row in enumerate(rows)}
    row_of = [
        place[pair]
        for pair in zip(
            recommended.stream.values.tolist(), recommended.kind.values.tolist(), strict=True
        )
    ]
    column_of = [blocks.index(block) for block in recommended.block.values.tolist()]
    figure = drawing.new_figure(
        recommended,
        "Recommended bits by block and kind",
        max(5.0, _CELL * len(blocks) + 2.2),
        2 * (_CELL * 0.9 * len(rows) + 0.4) + 2.2,
    )
    colours = ListedColormap(matplotlib.colormaps["cividis"](np.linspace(0.1, 1, len(CHOICES))))
    norm = BoundaryNorm([*(np.array(CHOICES) - 1), CHOICES[-1] + 1], len(CHOICES))
    drawn = figure.subplots(2, 1, sharex=True)
    for axes, name in zip(drawn, ("activation", "weight"), strict=True):
        table = np.full((len(rows), len(blocks)), np.nan)
        table[row_of, column_of] = recommended[f"{name}_bits"].values
        image = axes.imshow(
            np.ma.masked_invalid(table), cmap=colours, norm=norm, aspect="auto", origin="upper"
        )
        image.set_rasterized(True)  # as in ranges.range_by_sigma
        _write_bits(axes, table)
        axes.set_title(f"bits of {name}s")
        axes.set_yticks(np.arange(len(rows)), [f"{stream} {kind}" for stream, kind in rows])
        changes = [i for i in range(1, len(rows)) if rows[i][0] != rows[i - 1][0]]
        axes.hlines(np.array(changes) - 0.5, -0.5, len(blocks) - 0.5, color="black", lw=0.8)
        axes.tick_params(length=0)
    drawn[1].set_xticks(np.arange(len(blocks)), blocks, rotation=90)
    figure.legend(
        handles=[
            Patch(facecolor=colours(norm(bits)), edgecolor="0.5", label=f"{bits} bits")
            for bits in CHOICES
        ],
        loc="outside lower center",
        ncols=len(CHOICES),
    )
    return figure


def _write_bits(axes: "Axes", table: np.ndarray) -> None:
    for row, column in np.argwhere(~np.isnan(table)).tolist():
        bits = int(table[row, column])
        dark = bits < np.mean(CHOICES)
        axes.text(
            column,
            row,
            str(bits),
            ha="center",
            va="center",
            fontsize=SMALL,
            color="white" if dark else "black",
        )


def curves(statistics: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of images, and the part of each layer's range that they show at its worst step.

    Args:
        statistics: of ``reading.open_statistics``.

    Returns:
        Shapes (size,) and (layer, size).
    """
    images = statistics.sizes["image"]
    sizes = np.unique(np.geomspace(1, images, _SIZES).round().astype(int))
    parts = range_curve(statistics.image_min.values, statistics.image_max.values, sizes)
    return sizes, np.fmin.reduce(parts, axis=1)


@picture
def convergence(statistics: xr.Dataset) -> "Figure":
    """Draw how much of the range that all images show fewer of them would have shown.

    Args:
        statistics: of ``reading.open_statistics``.
    """
    figure = drawing.new_figure(statistics, "Range against number of images", 7.2, 4.6)
    axes = figure.add_subplot()
    images = statistics.sizes["image"]
    if images < 2:
        drawing.say(axes, "one image: nothing to compare it with")
        return figure
    sizes, parts = curves(statistics)
    names = statistics.layer.values
    known = np.isfinite(parts).all(axis=1)
    names, parts = names[known], parts[known]
    if not len(parts):
        drawing.say(axes)
        return figure
    low, middle, high = np.quantile(parts, [_BAND[0], 0.5, _BAND[1]], axis=0)
    axes.fill_between(
        sizes,
        low,
        high,
        color=drawing.BLUE,
        alpha=0.25,
        linewidth=0,
        label=f"{_BAND[1] - _BAND[0]:.0%} of {len(parts)} layers",
    )
    axes.plot(sizes, middle, color=drawing.BLUE, linewidth=2, label="median layer")
    at_half = parts[:, np.abs(sizes - images / 2).argmin()]
    styles = ((drawing.RED, "--"), (drawing.PURPLE, "-."), (drawing.GREEN, ":"))
    worst = drawing.most(-at_half, analysis.shared_inputs(statistics)[known], _WORST)
    for layer, (colour, line) in zip(worst, styles, strict=False):
        axes.plot(sizes, parts[layer], color=colour, linestyle=line, label=str(names[layer]))
    axes.plot(
        [images / 2],
        [1 / (1 + TOLERANCE)],
        ls="",
        marker="^",
        color="black",
        label=f"enough if above: half of the images add at most {TOLERANCE:.0%}",
    )
    drawing.scale(axes, "x", sizes)
    axes.set_ylim(min(0.9, float(parts.min()) - 0.03), 1.01)
    axes.set_xlabel("number of images")
    axes.set_ylabel("expected range over that of all images,\nat the worst step of each layer")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    return figure

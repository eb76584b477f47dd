"""Pictures of what is expected and recommended: SQNR, bits, and whether the images were enough."""

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from calibzarr.advice import analysis
from calibzarr.plots import drawing
from calibzarr.plots import layers as model_layers
from calibzarr.plots.drawing import SMALL, picture
from calibzarr.quantization.configuration import UNQUANTIZED
from calibzarr.quantization.levels import BITS
from calibzarr.statistics.convergence import TOLERANCE, range_curve

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.figure import Figure

_BAND = (0.1, 0.9)  # quantiles over layers
_CELL = 0.23  # inches, of a table of bits
_SIZES = 40  # numbers of images that a curve is computed at
_WORST = 3
_SHOWN = (*BITS, UNQUANTIZED)


@picture
def sqnr_by_bits(analyzed: xr.Dataset) -> "Figure":
    """Draw the expected SQNR of activations and weights against bits, by kind of layer.

    Args:
        analyzed: of ``analysis.of_statistics``.
    """
    kinds = model_layers.kinds(analyzed)
    panels = drawing.panels(
        analyzed,
        "Expected SQNR against bits, each with its best clipping range",
        len(kinds),
        columns=4,
        size=(2.6, 2.3),
        margin=(0.6, 1.2),
    )
    handles: dict[str, Artist] = {}
    for index, (axes, kind) in enumerate(zip(panels.axes, kinds, strict=True)):
        _draw_kind(axes, analyzed.isel(layer=np.flatnonzero(analyzed.kind.values == kind)), kind)
        if panels.at_bottom(index):
            axes.set_xlabel("bits")
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    panels.figure.supylabel("SQNR (dB)", fontsize=8)
    if handles:
        panels.figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    return panels.figure


def _draw_kind(axes: "Axes", layers: xr.Dataset, kind: str) -> None:
    """Layers of one kind, and the one whose activations are worst."""
    axes.set_title(f"{kind} ({layers.sizes['layer']})", pad=14)
    bits, sqnr = layers.bits.values, layers.sqnr_db.values
    drew = [
        _draw_sqnr(axes, bits, values, label, colour, marker)
        for label, values, colour, marker in (
            ("activations", sqnr, drawing.BLUE, "o"),
            ("weights", layers.weight_sqnr_db.values, drawing.ORANGE, "s"),
        )
    ]
    if not any(drew):
        drawing.say(axes)
        return
    worst = _worst(sqnr[:, -1])
    if worst is not None and len(sqnr) > 1:
        _note(axes, f"worst activations: {layers.layer.values[worst]}")
        curve, label = _finite(sqnr[worst]), "activations, worst layer"
        axes.plot(bits, curve, color=drawing.RED, ls="--", lw=1.2, label=label)
    axes.set_xticks(bits)
    axes.grid(alpha=0.3)


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
    from matplotlib.patches import Patch

    blocks = list(dict.fromkeys(recommended.block.values.tolist()))
    rows = _table_rows(recommended)
    figure = drawing.new_figure(
        recommended,
        "Recommended bits by block and kind",
        max(5.0, _CELL * len(blocks) + 2.2),
        2 * (_CELL * 0.9 * len(rows) + 0.4) + 2.2,
    )
    colours, norm = _colours_of_bits()
    drawn = figure.subplots(2, 1, sharex=True)
    for axes, name in zip(drawn, ("activation", "weight"), strict=True):
        _draw_table(axes, recommended, f"{name}_bits", rows, blocks)
        axes.set_title(f"bits of {name}s")
    drawn[1].set_xticks(np.arange(len(blocks)), blocks, rotation=90)
    figure.legend(
        handles=[
            Patch(facecolor=colours(norm(bits)), edgecolor="0.5", label=f"{bits} bits")
            for bits in _SHOWN
        ],
        loc="outside lower center",
        ncols=4,
    )
    return figure


def _table_rows(recommended: xr.Dataset) -> list[tuple[str, str]]:
    """Streams and kinds that there are layers of."""
    return [
        (stream, kind)
        for stream in model_layers.streams(recommended)
        for kind in model_layers.kinds(recommended)
        if ((recommended.stream == stream) & (recommended.kind == kind)).any()
    ]


def _colours_of_bits() -> "tuple[ListedColormap, BoundaryNorm]":
    import matplotlib
    from matplotlib.colors import BoundaryNorm, ListedColormap

    colours = ListedColormap(matplotlib.colormaps["cividis"](np.linspace(0.1, 1, len(_SHOWN))))
    norm = BoundaryNorm([*(np.array(_SHOWN) - 0.5), UNQUANTIZED + 0.5], len(_SHOWN))
    return colours, norm


def _draw_table(
    axes: "Axes",
    recommended: xr.Dataset,
    variable: str,
    rows: list[tuple[str, str]],
    blocks: list[str],
) -> None:
    """Bits by row and block."""
    table = np.full((len(rows), len(blocks)), np.nan)
    names = (recommended[name].values.tolist() for name in ("stream", "kind", "block"))
    for stream, kind, block, bits in zip(*names, recommended[variable].values, strict=True):
        table[rows.index((stream, kind)), blocks.index(block)] = bits
    colours, norm = _colours_of_bits()
    image = axes.imshow(
        np.ma.masked_invalid(table), cmap=colours, norm=norm, aspect="auto", origin="upper"
    )
    image.set_rasterized(True)  # as in ranges.range_by_sigma
    _write_bits(axes, table)
    axes.set_yticks(np.arange(len(rows)), [f"{stream} {kind}" for stream, kind in rows])
    changes = [i for i in range(1, len(rows)) if rows[i][0] != rows[i - 1][0]]
    axes.hlines(np.array(changes) - 0.5, -0.5, len(blocks) - 0.5, color="black", lw=0.8)
    axes.tick_params(length=0)


def _write_bits(axes: "Axes", table: np.ndarray) -> None:
    for row, column in np.argwhere(~np.isnan(table)).tolist():
        bits = int(table[row, column])
        dark = bits < np.mean(BITS)
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
    """Numbers of images, and the share of each layer's range that they show at its worst step.

    Args:
        statistics: of ``reading.open_statistics``.

    Returns:
        Shapes (size,) and (layer, size).
    """
    images = statistics.sizes["image"]
    sizes = np.unique(np.geomspace(1, images, _SIZES).round().astype(int))
    shares = range_curve(statistics.image_min.values, statistics.image_max.values, sizes)
    return sizes, np.fmin.reduce(shares, axis=1)


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
    sizes, shares = curves(statistics)
    names = statistics.layer.values
    known = np.isfinite(shares).all(axis=1)
    names, shares = names[known], shares[known]
    if not len(shares):
        drawing.say(axes)
        return figure
    low, middle, high = np.quantile(shares, [_BAND[0], 0.5, _BAND[1]], axis=0)
    axes.fill_between(
        sizes,
        low,
        high,
        color=drawing.BLUE,
        alpha=0.25,
        linewidth=0,
        label=f"{_BAND[1] - _BAND[0]:.0%} of {len(shares)} layers",
    )
    axes.plot(sizes, middle, color=drawing.BLUE, linewidth=2, label="median layer")
    at_half = shares[:, np.abs(sizes - images / 2).argmin()]
    styles = ((drawing.RED, "--"), (drawing.PURPLE, "-."), (drawing.GREEN, ":"))
    worst = model_layers.most(-at_half, analysis.shared_inputs(statistics)[known], _WORST)
    for layer, (colour, line) in zip(worst, styles, strict=False):
        axes.plot(sizes, shares[layer], color=colour, linestyle=line, label=str(names[layer]))
    axes.plot(
        [images / 2],
        [1 / (1 + TOLERANCE)],
        ls="",
        marker="^",
        color="black",
        label=f"enough if above: half of the images add at most {TOLERANCE:.0%}",
    )
    drawing.scale(axes, "x", sizes)
    axes.set_ylim(min(0.9, float(shares.min()) - 0.03), 1.01)
    axes.set_xlabel("number of images")
    axes.set_ylabel("expected range over that of all images,\nat the worst step of each layer")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    return figure

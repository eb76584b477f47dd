"""A picture of which prompts the extremes of the layers come from."""

import textwrap
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from calibzarr.plots import drawing
from calibzarr.plots import layers as model_layers
from calibzarr.plots.drawing import picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 12  # images
_ROW = 0.32  # inches
_CHARACTERS = 60  # of a prompt


def extremes(statistics: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """For how many layers each image has the least, and the greatest value of all.

    Layers that read one array count once, those without values not at all.

    Args:
        statistics: of ``reading.open_statistics``.

    Returns:
        Least and greatest, each of shape (image,).
    """
    layers = model_layers.together(statistics[["image_min", "image_max"]])
    low = np.fmin.reduce(layers.image_min.values, axis=1)  # over steps
    high = np.fmax.reduce(layers.image_max.values, axis=1)
    count = low.shape[1]
    known = np.isfinite(low).any(axis=1) & np.isfinite(high).any(axis=1)
    least = np.bincount(np.nanargmin(low[known], axis=1), minlength=count)
    greatest = np.bincount(np.nanargmax(high[known], axis=1), minlength=count)
    return least, greatest


@picture
def extremes_by_prompt(statistics: xr.Dataset) -> "Figure":
    """Draw which images the least and the greatest values of the layers come from.

    Args:
        statistics: of ``reading.open_statistics``.
    """
    least, greatest = extremes(statistics)
    total = least + greatest
    shown = np.argsort(-total, kind="stable")[:_SHOWN]
    shown = shown[total[shown] > 0]
    figure = drawing.new_figure(
        statistics,
        "Images that the extremes of the layers come from",
        8.0,
        _ROW * max(len(shown), 3) + 1.7,
    )
    axes = figure.add_subplot()
    if not len(shown):
        drawing.say(axes)
        return figure
    place = np.arange(len(shown))
    axes.barh(place, least[shown], color=drawing.SKY, label="least value")
    axes.barh(place, greatest[shown], left=least[shown], color=drawing.BLUE, label="greatest value")
    axes.axvline(
        total.sum() / statistics.collected_image.values.sum(),
        color="0.4",
        ls=":",
        lw=1.2,
        label="if all images had as many",
    )
    prompts = statistics.prompt.values[shown].tolist()
    axes.set_yticks(place, [_label(*pair) for pair in zip(shown, prompts, strict=True)])
    axes.invert_yaxis()
    axes.set_xlabel(
        "layers whose extreme over all steps comes from the image, inputs that several read once"
    )
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _label(image: int, prompt: str) -> str:
    words = " ".join(prompt.split())
    return f"{image}: {textwrap.shorten(words, _CHARACTERS, placeholder=' ...')}"

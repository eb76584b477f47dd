"""Pictures of what is in a store."""

import math

import numpy as np
import xarray as xr
from PIL import Image, ImageDraw

_CELL = 192  # pixels of one picture on the sheet, at least
_CAPTION_LINES = 2
_LINE = 14
_MARGIN = 8


def contact_sheet(dataset: xr.Dataset, columns: int = 4) -> Image.Image:
    """Draw the decoded images in rows, each with its index and the beginning of its prompt.

    Args:
        dataset: as ``calibzarr.open_store`` gives it; every one of its images is drawn, so
            select first: ``dataset.isel(image=slice(20))``.
        columns: pictures in a row.

    Returns:
        An RGB picture.

    Raises:
        ValueError: if the dataset has no image.
    """
    pictures = dataset.decoded.transpose("image", "row", "column", "rgb").values
    if not len(pictures):
        raise ValueError("a contact sheet needs at least one image, got a dataset of none")
    scale = math.ceil(_CELL / pictures.shape[1])
    cell = pictures.shape[1] * scale
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    height = cell + _CAPTION_LINES * _LINE
    sheet = Image.new(
        "RGB",
        (columns * (cell + _MARGIN) + _MARGIN, rows * (height + _MARGIN) + _MARGIN),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for index, (picture, prompt) in enumerate(zip(pictures, dataset.prompt.values, strict=True)):
        row, column = divmod(index, columns)
        left = _MARGIN + column * (cell + _MARGIN)
        top = _MARGIN + row * (height + _MARGIN)
        sheet.paste(_enlarged(picture, scale), (left, top))
        caption = _caption(f"{index}: {prompt}", cell, draw)
        draw.multiline_text((left, top + cell), caption, fill="black", spacing=2)
    return sheet


def _enlarged(picture: np.ndarray, scale: int) -> Image.Image:
    return Image.fromarray(picture.repeat(scale, axis=0).repeat(scale, axis=1))


def _caption(text: str, width: int, draw: ImageDraw.ImageDraw) -> str:
    """The beginning of a text, wrapped to a width in pixels."""
    lines = [""]
    for word in text.split():
        candidate = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(candidate) > width:
            if len(lines) == _CAPTION_LINES:
                lines[-1] += " ..."
                break
            candidate = word
            lines.append("")
        lines[-1] = candidate
    return "\n".join(lines)

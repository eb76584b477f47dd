"""Pictures of what is in a store."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr
from PIL import Image, ImageDraw, ImageFont

_CELL = 192  # pixels of one picture on the sheet, at least
_FRAME = 96  # and of one on the film strip
_CAPTION_LINES = 2
_LINE = 15
_FONT_SIZE = 12
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
    draw = _draw(sheet)
    for index, (picture, prompt) in enumerate(zip(pictures, dataset.prompt.values, strict=True)):
        row, column = divmod(index, columns)
        left = _MARGIN + column * (cell + _MARGIN)
        top = _MARGIN + row * (height + _MARGIN)
        sheet.paste(_enlarged(picture, scale), (left, top))
        caption = _caption(f"{index}: {prompt}", cell, draw)
        draw.multiline_text((left, top + cell), caption, fill="black", spacing=2)
    return sheet


def side_by_side(datasets: Mapping[str, xr.Dataset], images: Sequence[int]) -> Image.Image:
    """Draw the same images of several stores, a row for each store.

    Args:
        datasets: as ``calibzarr.open_store`` gives them, each under the words that stand above
            its row; of the same prompts and seeds.
        images: indices of complete images.

    Returns:
        An RGB picture; under the last row are seeds and prompts.
    """
    first = next(iter(datasets.values())).isel(image=list(images))
    scale = math.ceil(_CELL / first.sizes["row"])
    cell = first.sizes["row"] * scale
    width, row_height = len(images) * (cell + _MARGIN) + _MARGIN, _LINE + cell + _MARGIN
    captions = (_CAPTION_LINES + 1) * _LINE
    sheet = Image.new("RGB", (width, len(datasets) * row_height + captions + _MARGIN), "white")
    draw = _draw(sheet)
    for row, (words, dataset) in enumerate(datasets.items()):
        top = _MARGIN + row * row_height
        draw.text((_MARGIN, top - _MARGIN // 2), words, fill="black")
        chosen = dataset.decoded.isel(image=list(images))
        pictures = chosen.transpose("image", "row", "column", "rgb").values
        for column, picture in enumerate(pictures):
            left = _MARGIN + column * (cell + _MARGIN)
            sheet.paste(_enlarged(picture, scale), (left, top + _LINE))
    top = len(datasets) * row_height
    for column, (seed, prompt) in enumerate(
        zip(first.seed.values.tolist(), first.prompt.values.tolist(), strict=True)
    ):
        left = _MARGIN + column * (cell + _MARGIN)
        caption = f"seed {seed}\n{_caption(prompt, cell, draw)}"
        draw.multiline_text((left, top), caption, fill="black", spacing=2)
    return sheet


def film_strip(
    dataset: xr.Dataset,
    image: int,
    decode: Callable[[np.ndarray], np.ndarray],
    every: int = 5,
) -> Image.Image:
    """Draw one image's way from noise to picture, each state with its noise level.

    Args:
        dataset: as ``calibzarr.open_store`` gives it.
        image: index of a complete image.
        decode: makes a picture, shape (row, column, rgb), uint8, of one state, shape (channel,
            height, width); ``Model.decode`` of the model that made the store.
        every: states from one frame to the next; the final state is always the last frame.

    Returns:
        An RGB picture: the prompt above, then one row of frames.

    Raises:
        ValueError: if there is no such image, it is not complete, or ``every`` is below 1.
    """
    count = dataset.sizes["image"]
    if not 0 <= image < count:
        raise ValueError(f"image must be 0 to {count - 1}, an index of the dataset, got {image}")
    if every < 1:
        raise ValueError(
            f"a film strip shows every state or fewer: every must be 1 or more, got {every}"
        )
    chosen = dataset[["latents", "prompt", "sigma"]].isel(image=image)
    last = chosen.sizes["step"] - 1
    chosen = chosen.isel(step=[*range(0, last, every), last])
    states = chosen.latents.transpose("step", "channel", "height", "width").values
    if np.isnan(states).any():
        raise ValueError(f"image {image} is not complete; build it, or choose another")
    frames = [decode(state) for state in states.astype(np.float32)]
    scale = math.ceil(_FRAME / frames[0].shape[0])
    cell = frames[0].shape[0] * scale
    width = len(frames) * (cell + _MARGIN) + _MARGIN
    strip = Image.new("RGB", (width, cell + 2 * _LINE + 3 * _MARGIN), "white")
    draw = _draw(strip)
    top = _LINE + 2 * _MARGIN
    caption = _caption(f"{image}: {chosen.prompt.values}", width - 2 * _MARGIN, draw, lines=1)
    draw.text((_MARGIN, _MARGIN), caption, fill="black")
    for index, (frame, sigma) in enumerate(zip(frames, chosen.sigma.values, strict=True)):
        left = _MARGIN + index * (cell + _MARGIN)
        strip.paste(_enlarged(frame, scale), (left, top))
        draw.text((left, top + cell), f"sigma {sigma:.2f}", fill="black")
    return strip


def _draw(picture: Image.Image) -> ImageDraw.ImageDraw:
    draw = ImageDraw.Draw(picture)
    draw.font = ImageFont.load_default(_FONT_SIZE)
    return draw


def _enlarged(picture: np.ndarray, scale: int) -> Image.Image:
    return Image.fromarray(picture.repeat(scale, axis=0).repeat(scale, axis=1))


def _caption(text: str, width: int, draw: ImageDraw.ImageDraw, lines: int = _CAPTION_LINES) -> str:
    """The beginning of a text, wrapped to a width in pixels."""
    wrapped = [""]
    for word in text.split():
        candidate = f"{wrapped[-1]} {word}".strip()
        if wrapped[-1] and draw.textlength(candidate) > width:
            if len(wrapped) == lines:
                wrapped[-1] += " ..."
                break
            candidate = word
            wrapped.append("")
        wrapped[-1] = candidate
    return "\n".join(wrapped)

"""Pictures of what is in a store."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from PIL import Image, ImageDraw, ImageFont

from calibzarr.comparison.pictures import psnr_db

_CELL = 192  # pixels of one picture on a sheet, at least
_FRAME = 96  # and of one on a film strip
_LARGEST = 256  # and of either, at most
_CAPTION_LINES = 2  # of a prompt
_LINE = 15
_FONT_SIZE = 12
_MARGIN = 8
_WHITE = 255

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

Decode = Callable[[np.ndarray], np.ndarray]
"""``picture = decode(state)``: (channel, height, width) to (row, column, rgb), uint8."""


@dataclass(frozen=True)
class _Row:
    """Pictures beside each other.

    Attributes:
        pictures: shape (image, row, column, rgb).
        captions: what stands below each, if anything; its lines are wrapped, and cut.
        heading: what stands above the row.
    """

    pictures: np.ndarray
    captions: Sequence[str] = ()
    heading: str = ""


def contact_sheet(dataset: xr.Dataset, columns: int = 4) -> Image.Image:
    """Draw the decoded images in rows, each with its index, seed and the beginning of its prompt.

    Args:
        dataset: as ``calibzarr.open_store`` gives it; every one of its images is drawn, so
            select first: ``dataset.isel(image=slice(20))``.
        columns: pictures in a row.

    Returns:
        An RGB picture.

    Raises:
        ValueError: if the dataset has no image.
    """
    pictures, captions = _pictures(dataset), _captions(dataset)
    if not len(pictures):
        raise ValueError("a contact sheet needs at least one image, got a dataset of none")
    rows = [
        _Row(pictures[first : first + columns], captions[first : first + columns])
        for first in range(0, len(pictures), columns)
    ]
    return _drawn(rows, _CELL, _about(dataset))


def side_by_side(
    datasets: Mapping[str, xr.Dataset], images: Sequence[int], *, difference: bool = False
) -> Image.Image:
    """Draw the same images of several stores, a row for each store.

    Args:
        datasets: as ``calibzarr.open_store`` gives them, each under the words that stand above
            its row; of the same prompts and seeds.
        images: indices of complete images.
        difference: whether to add a row of how the last store's pictures differ from the first's.

    Returns:
        An RGB picture; under the last store's row are indices, seeds and prompts.
    """
    pictures = [_pictures(each.isel(image=list(images))) for each in datasets.values()]
    rows = [_Row(each, heading=words) for words, each in zip(datasets, pictures, strict=True)]
    first, *_, last = rows
    rows[-1] = _Row(last.pictures, _captions(next(iter(datasets.values())), images), last.heading)
    if difference:
        rows.append(_difference(first.pictures, last.pictures))
    return _drawn(rows, _CELL, _about(next(iter(datasets.values()))))


def film_strip(dataset: xr.Dataset, image: int, decode: Decode, every: int = 5) -> Image.Image:
    """Draw one image's way from noise to picture, each state with its step and noise level.

    Args:
        dataset: as ``calibzarr.open_store`` gives it.
        image: index of a complete image.
        decode: ``Model.decode`` of the model that made the store.
        every: states from one frame to the next; the final state is always the last frame.

    Returns:
        An RGB picture: model, index, seed and prompt above, then one row of frames.

    Raises:
        ValueError: if there is no such image, it is not complete, or ``every`` is below 1.
    """
    return film_strips({"": dataset}, image, decode, every)


def film_strips(
    datasets: Mapping[str, xr.Dataset],
    image: int,
    decode: Decode,
    every: int = 5,
    *,
    difference: bool = False,
) -> Image.Image:
    """Draw one image's way in several stores, a row for each; see :func:`film_strip`.

    Args:
        datasets: each under the words that stand above its row; of the same prompts and seeds.
        image: index of an image that is complete in all.
        decode: ``Model.decode`` of the model that made the stores.
        every: states from one frame to the next; the final state is always the last frame.
        difference: whether to add a row of how the last store's frames differ from the first's.

    Raises:
        ValueError: as :func:`film_strip`.
    """
    first = next(iter(datasets.values()))
    count = first.sizes["image"]
    if not 0 <= image < count:
        raise ValueError(f"image must be 0 to {count - 1}, an index of the dataset, got {image}")
    if every < 1:
        raise ValueError(
            f"a film strip shows every state or fewer: every must be 1 or more, got {every}"
        )
    steps = [*range(0, first.sizes["step"] - 1, every), first.sizes["step"] - 1]
    sigma = first.sigma.values[steps].tolist()
    captions = [f"step {step}\nsigma {s:.2f}" for step, s in zip(steps, sigma, strict=True)]
    rows = [
        _Row(_frames(dataset, image, steps, decode), captions, words)
        for words, dataset in datasets.items()
    ]
    if difference:
        rows.append(_difference(rows[0].pictures, rows[-1].pictures))
    title = _captions(first, [image])[0].replace("\n", ": ")
    return _drawn(rows, _FRAME, f"{_about(first)}\n{title}")


def _about(dataset: xr.Dataset) -> str:
    """What made a store, as far as it says."""
    parts = {"model": "{}", "num_steps": "{} steps", "cfg_weight": "cfg weight {:g}"}
    known = {name: dataset.attrs.get(name) for name in parts}
    return ", ".join(
        words.format(known[name]) for name, words in parts.items() if known[name] is not None
    )


def _captions(dataset: xr.Dataset, images: Sequence[int] | None = None) -> list[str]:
    """Index, seed and prompt of some images, by place, or of all."""
    variables = dataset[["prompt", *(name for name in ("seed",) if name in dataset.variables)]]
    chosen = variables if images is None else variables.isel(image=list(images))
    numbers = dataset.image.values.tolist()
    numbers = numbers if images is None else [numbers[image] for image in images]
    seeds = chosen.seed.values.tolist() if "seed" in chosen.variables else [None] * len(numbers)
    return [
        f"image {number}{'' if seed is None else f', seed {seed}'}\n{prompt}"
        for number, seed, prompt in zip(numbers, seeds, chosen.prompt.values, strict=True)
    ]


def _pictures(dataset: xr.Dataset) -> np.ndarray:
    return np.asarray(dataset.decoded.transpose("image", "row", "column", "rgb").values)


def _frames(dataset: xr.Dataset, image: int, steps: Sequence[int], decode: Decode) -> np.ndarray:
    """Pictures of some states of an image, shape (step, row, column, rgb).

    Raises:
        ValueError: if the image is not complete.
    """
    latents = dataset.latents.isel(image=image, step=list(steps))
    states = latents.transpose("step", "channel", "height", "width").values
    if np.isnan(states).any():
        raise ValueError(f"image {image} is not complete; build it, or choose another")
    return np.stack([decode(state) for state in states.astype(np.float32)])


def _difference(pictures: np.ndarray, others: np.ndarray) -> _Row:
    """How pictures differ, made as bright as they can be together, with their PSNR."""
    apart = np.abs(pictures.astype(np.int16) - others)
    factor = 2 ** int(math.log2(_WHITE / max(1, int(apart.max()))))
    found = psnr_db(pictures, others)
    captions = ["equal" if np.isinf(psnr) else f"PSNR {psnr:.1f} dB" for psnr in found]
    return _Row((factor * apart).astype(np.uint8), captions, f"difference, times {factor}")


def _drawn(rows: Sequence[_Row], least: int, title: str = "") -> Image.Image:
    """Rows below each other, under a title; pictures are whole multiples, or made smaller."""
    height, width = _size(rows[0].pictures.shape[1:3], least)
    columns = max(len(row.pictures) for row in rows)
    font = ImageFont.load_default(_FONT_SIZE)
    whole = columns * (width + _MARGIN) + _MARGIN
    title = _wrapped(title, whole - 2 * _MARGIN, font)
    headings = [_wrapped(row.heading, whole - 2 * _MARGIN, font) for row in rows]
    texts = [[_wrapped(text, width, font) for text in row.captions] for row in rows]
    top = _MARGIN + _height(title)
    tops = []
    for heading, captions in zip(headings, texts, strict=True):
        top += _height(heading)
        tops.append(top)
        top += height + max(map(_height, captions), default=0) + _MARGIN
    sheet = Image.new("RGB", (whole, top), "white")
    draw = ImageDraw.Draw(sheet)
    draw.font = font
    draw.multiline_text((_MARGIN, _MARGIN // 2), title, fill="black", spacing=2)
    for row, heading, captions, top in zip(rows, headings, texts, tops, strict=True):
        above = top - _height(heading) - 1
        draw.multiline_text((_MARGIN, above), heading, fill="black", spacing=2)
        for column, picture in enumerate(row.pictures):
            left = _MARGIN + column * (width + _MARGIN)
            sheet.paste(_resized(picture, width, height), (left, top))
            if captions:
                caption = captions[column]
                draw.multiline_text((left, top + height + 1), caption, fill="black", spacing=2)
    return sheet


def _size(shape: tuple[int, int], least: int) -> tuple[int, int]:
    """Height and width that pictures are drawn with."""
    scale = max(1, math.ceil(least / shape[1]))
    if shape[1] > _LARGEST:
        return round(shape[0] * _LARGEST / shape[1]), _LARGEST
    return shape[0] * scale, shape[1] * scale


def _resized(picture: np.ndarray, width: int, height: int) -> Image.Image:
    if picture.shape[1] > width:
        return Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)
    scale = width // picture.shape[1]
    return Image.fromarray(picture.repeat(scale, axis=0).repeat(scale, axis=1))


def _height(text: str) -> int:
    return _LINE * (text.count("\n") + 1) if text else 0


def _wrapped(text: str, width: int, font: _Font) -> str:
    """The beginning of each line of a text, wrapped to a width in pixels."""
    lines: list[str] = []
    for line in text.split("\n"):
        wrapped = [""]
        for word in line.split():
            candidate = f"{wrapped[-1]} {word}".strip()
            if wrapped[-1] and font.getlength(candidate) > width:
                if len(wrapped) == _CAPTION_LINES:
                    wrapped[-1] += " ..."
                    break
                candidate = word
                wrapped.append("")
            wrapped[-1] = candidate
        lines += wrapped
    return "\n".join(lines)

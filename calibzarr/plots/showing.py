"""A store's pictures in one file: all of them, the way of one, or beside those of another."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from PIL import Image

from calibzarr.comparison.plan import plan
from calibzarr.errors import Call, Option, OptionError, StoreError
from calibzarr.models import registry
from calibzarr.plots.images import contact_sheet, film_strip, film_strips, side_by_side
from calibzarr.storage import durable, reading, schema
from calibzarr.storage.manifest import Root, check_known, read_root

_MOST = 64  # images of a contact sheet
_MOST_OF_TWO = 6


@dataclass(frozen=True)
class Shown:
    """What was drawn.

    Attributes:
        file: the picture.
        images: indices of the images on it.
        num_complete: how many there were to draw.
    """

    file: Path
    images: tuple[int, ...]
    num_complete: int


def show(
    path: str | Path,
    *,
    image: int | None = None,
    against: str | Path | None = None,
    out: str | Path | None = None,
) -> Shown:
    """Draw a store's pictures as a PNG file.

    Args:
        path: directory of the store.
        image: index of one, to draw its way from noise to picture; None for the pictures of all,
            64 at most.
        against: directory of a store of the same prompts and seeds, to draw beside it with the
            difference: the way of that image, or else pictures, 6 at most.
        out: the file, which is replaced; None for one beside the store, named after it.

    Returns:
        Where it is, and of which images.

    Raises:
        OptionError: if there is no such image, or the file's name does not end in ``.png``.
        StoreError: if a store cannot be used, or the two cannot be compared.
        OSError: if the file cannot be written.
    """
    root = read_root(Path(path))
    file = _beside(root, image, against) if out is None else Path(out)
    if file.suffix.lower() != ".png":
        raise OptionError(Option("out"), f" must end in .png, got {str(file)!r}")
    dataset = reading.open_store(root)
    dataset = dataset.assign_coords(image=np.arange(root.num_images))
    if against is None:
        images = tuple(np.flatnonzero(dataset.complete.values).tolist())
        if not images:
            raise StoreError(
                f"{root.path} has no complete image to show; build some with: ",
                Call("build", (root.path,), {"resume": True}),
            )
        stores = {"": dataset}
    else:
        compared = plan(root.path, against)
        images, other = compared.images, reading.open_store(compared.runs[0])
        stores = {_words(root): dataset, _words(compared.runs[0]): other}
    drawn, picture = _drawn(root, stores, images, image)
    content = io.BytesIO()
    picture.save(content, "png", optimize=True)
    durable.write(file, content.getbuffer())
    return Shown(file, drawn, len(images))


def _words(root: Root) -> str:
    """What a row of pictures is of."""
    quantized = root.attributes.get(schema.QUANTIZED)
    return str(root.path) + ("" if quantized is None else f", by a {quantized['kind']}")


def _beside(root: Root, image: int | None, against: str | Path | None) -> Path:
    """A file beside the store that says what is on it."""
    store = root.path.resolve()
    of_image = "" if image is None else f"-{image}"
    of_other = "" if against is None else f"-against-{Path(against).resolve().stem}"
    return store.with_name(f"{store.stem}{of_image}{of_other}.png")


def _drawn(
    root: Root, stores: dict[str, xr.Dataset], images: Sequence[int], image: int | None
) -> tuple[tuple[int, ...], Image.Image]:
    """Which images are drawn, and the picture of them."""
    first, together = next(iter(stores.values())), len(stores) > 1
    if image is not None:
        if image not in images:
            raise OptionError(
                Option("image"),
                f" must be one of {len(images)} complete images, {images[0]} to {images[-1]}, "
                f"got {image}",
            )
        check_known(root.path, root.attributes)
        decode = registry.load(root.attributes["model"]).decode
        if together:
            return (image,), film_strips(stores, image, decode, difference=True)
        return (image,), film_strip(first, image, decode)
    chosen = tuple(images[: _MOST_OF_TWO if together else _MOST])
    if together:
        return chosen, side_by_side(stores, chosen, difference=True)
    return chosen, contact_sheet(first.isel(image=list(chosen)))

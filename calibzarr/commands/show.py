"""``calibzarr show``."""

from pathlib import Path

import click

from calibzarr.commands.command import command
from calibzarr.commands.common import hint, store_argument, tell


@command("show")
@store_argument
@click.option(
    "--image",
    type=click.IntRange(0),
    show_default="the pictures of all",
    help="Draw the way of this image from noise to picture.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="OTHER",
    show_default="none",
    help="Draw this store beside it, and the difference.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    show_default="beside STORE",
    help="Write the picture here, in the place of what is there.",
)
def show_command(store: Path, image: int | None, against: Path | None, out: Path | None) -> None:
    """Draw the pictures of STORE, with seeds and prompts.

    At most 64 pictures are drawn, of two stores 6. States on the way are decoded by the model.

    \b
    calibzarr show stores/tiny.zarr
    calibzarr show stores/tiny.zarr --image 3
    calibzarr show stores/tiny.zarr --against stores/w4.zarr --out w4.png
    """
    from calibzarr.export.destination import check_free
    from calibzarr.plots.showing import show

    if out is not None:
        check_free(out, [store, *([] if against is None else [against])], force=True)
    found = show(store, image=image, against=against, out=out)
    tell(str(found.file))
    if image is None and len(found.images) < found.num_complete:
        hint(f"the first {len(found.images)} of {found.num_complete} images")

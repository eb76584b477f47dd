"""``calibzarr export-legacy`` and ``calibzarr import-legacy``."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from calibzarr.commands import completion
from calibzarr.commands.command import INTERRUPTED, command
from calibzarr.commands.common import (
    hint,
    images_option,
    make_console,
    note_cut,
    store_argument,
    tell,
)
from calibzarr.errors import Call, Option
from calibzarr.legacy.choices import LAYOUTS, PARTS

_AS_THERE = "the manifest's"
_LISTED = 10  # images that are named one by one

_layout = click.Choice(LAYOUTS)
_workers_option = click.option(
    "--workers",
    type=click.IntRange(1),
    show_default="one for each processor",
    help="Images at work at a time.",
)
_directory_argument = click.argument("directory", type=click.Path(path_type=Path))


def _parts(text: str) -> list[str]:
    """Split at the commas; the library knows which names there are."""
    return [part.strip() for part in text.split(",") if part.strip()]


@command(
    "export-legacy", {"What to write": "num_images images only layout", "How": "force workers"}
)
@store_argument
@_directory_argument
@click.option(
    "--num-images", type=click.IntRange(1), show_default="all", help="Only the first so many."
)
@images_option("Only complete ones of these images.")
@click.option(
    "--only",
    type=_parts,
    metavar="PART,...",
    show_default="all",
    help=f"Some of {','.join(PARTS)}.",
)
@click.option(
    "--layout",
    type=_layout,
    default="nchw",
    show_default=True,
    help="x is (1, channel, height, width), as it was documented; or channels last, as it was.",
)
@click.option("--force", is_flag=True, help="Replace files of the same names.")
@_workers_option
def export_legacy_command(store: Path, directory: Path, **options: Any) -> None:
    """Write STORE's images to DIRECTORY, a NumPy file a state.

    The files are compressed, as scripts before calibzarr wrote them. Only complete images count.

    Interrupted, the same command goes on; more images of the same store are added.

    \b
    calibzarr export-legacy stores/tiny.zarr old/
    calibzarr export-legacy stores/tiny.zarr old/ --layout nhwc --images 0:100
    calibzarr export-legacy stores/tiny.zarr pictures/ --only images
    """
    from calibzarr.legacy import export_plan, exporting

    console = make_console()
    plan = export_plan.plan(store, directory, **options)
    note_cut(console, options["images"], plan.root.num_images)
    if plan.left_out:
        console.print(f"{len(plan.left_out)} images are not complete, and left out")
    console.print(f"{directory}: {len(plan.images)} images of {store}")
    result = exporting.run(plan, console)
    if result.interrupted:
        tell(f"{directory}: stopped; go on with the same command, but without ", Option("force"))
        sys.exit(INTERRUPTED)
    tell(f"{directory}: {result.num_images} images of {store}")
    if result.others:
        tell(
            f"warning: {directory} also has {result.others} files of states that are not among "
            f"those; its manifest does not list them",
            err=True,
        )
    if "samples" in plan.parts:
        hint("back again with: ", Call("import_legacy", (directory, "NEW.zarr")))


@command(
    "import-legacy",
    {"What the manifest lacks": "prompts model cfg_weight seed layout", "How": "workers"},
)
@_directory_argument
@store_argument
@click.option(
    "--prompts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    show_default=_AS_THERE,
    help="Prompts of the images from 0 on, where the manifest lacks them; CSV or text.",
)
@click.option(
    "--model",
    show_default=_AS_THERE,
    shell_complete=completion.models,
    help="Model that made the states, where the manifest does not say.",
)
@click.option(
    "--cfg-weight",
    type=float,
    show_default=_AS_THERE,
    help="Guidance weight, where it does not say.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    show_default=_AS_THERE,
    help="Seed of image 0, where it does not say.",
)
@click.option("--layout", type=_layout, show_default="as its shape tells", help="Of x.")
@_workers_option
def import_legacy_command(directory: Path, store: Path, **options: Any) -> None:
    """Read DIRECTORY, a NumPy file a state, into a new STORE.

    Images that are not whole are listed and left out. Interrupted, the same command goes on;
    given again, it adds what has become whole.

    \b
    calibzarr import-legacy old/ stores/sd3.zarr
    calibzarr import-legacy old/ stores/sd3.zarr --prompts prompts.csv
    """
    from calibzarr.legacy import import_plan, importing

    console = make_console()
    plan = import_plan.plan(directory, store, **options)
    for note in plan.notes:
        tell("note: ", note, err=True)
    missing = len(plan.missing())
    console.print(f"{store}: {missing} images to import" if missing else f"{store}: nothing new")
    result = importing.run(plan, console)
    _list("left out", result.left_out)
    _list("without a picture", result.without_picture)
    tell(f"{store}: {result.n_completed} of {result.num_images} images are complete")
    if result.interrupted:
        tell("stopped; go on with the same command")
        sys.exit(INTERRUPTED)
    hint("look at it with: ", Call("info", (store,)))


def _list(what: str, images: Mapping[int, str]) -> None:
    """Name some images with what is wrong, and count the others, on standard error."""
    for image, problem in list(images.items())[:_LISTED]:
        tell(f"warning: image {image} is {what}: {problem}", err=True)
    if len(images) > _LISTED:
        tell(f"warning: {len(images) - _LISTED} more images are {what}", err=True)

"""``calibzarr export-legacy`` and ``calibzarr import-legacy``."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from calibzarr.commands.common import (
    INTERRUPTED,
    images_option,
    make_console,
    one_line_errors,
    quiet_option,
    store_argument,
    tell,
)
from calibzarr.errors import Call, Option
from calibzarr.legacy.choices import LAYOUTS, PARTS

_LISTED = 10  # images that are named one by one

_layout = click.Choice(LAYOUTS)
_workers_option = click.option(
    "--workers",
    type=click.IntRange(1),
    help="Images at work at a time; default: one for each processor.",
)
_directory_argument = click.argument("directory", type=click.Path(path_type=Path))


def _parts(text: str) -> list[str]:
    """Split at the commas; the library knows which names there are."""
    return [part.strip() for part in text.split(",") if part.strip()]


@click.command(name="export-legacy")
@store_argument
@_directory_argument
@click.option("--num-images", type=click.IntRange(1), help="Only the first so many.")
@images_option("Only complete ones of these images.")
@click.option(
    "--only",
    type=_parts,
    metavar="PART,...",
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
@quiet_option
@one_line_errors
def export_legacy_command(store: Path, directory: Path, **options: Any) -> None:
    """Write STORE's complete images to DIRECTORY, a compressed NumPy file for each state.

    Interrupted, the same command goes on; more images of the same store are added.

    \b
    calibzarr export-legacy stores/tiny.zarr old/
    calibzarr export-legacy stores/tiny.zarr old/ --layout nhwc --only samples,manifest
    calibzarr export-legacy stores/tiny.zarr pictures/ --only images
    """
    from calibzarr.legacy import export_plan, exporting

    console = make_console()
    plan = export_plan.plan(store, directory, **options)
    if plan.left_out:
        console.print(f"{len(plan.left_out)} images are not complete, and left out")
    console.print(f"{directory}: {len(plan.images)} images of {store}")
    result = exporting.run(plan, console)
    if result.interrupted:
        tell(f"{directory}: stopped; go on with the same command, but without ", Option("force"))
        sys.exit(INTERRUPTED)
    click.echo(f"{directory}: {result.num_images} images of {store}")
    if result.others:
        click.echo(
            f"warning: {directory} also has {result.others} files of states that are not among "
            f"those; its manifest does not list them",
            err=True,
        )
    if "samples" in plan.parts:
        tell("back again with: ", Call("import_legacy", (directory, "NEW.zarr")))


@click.command(name="import-legacy")
@_directory_argument
@store_argument
@click.option(
    "--prompts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Prompts of the images from 0 on, where the manifest lacks them; CSV or text.",
)
@click.option("--model", help="Model that made the states, where the manifest does not say.")
@click.option("--cfg-weight", type=float, help="Guidance weight, where it does not say.")
@click.option("--seed", type=click.IntRange(0), help="Seed of image 0, where it does not say.")
@click.option("--layout", type=_layout, help="Of x; default: as its shape tells.")
@_workers_option
@quiet_option
@one_line_errors
def import_legacy_command(directory: Path, store: Path, **options: Any) -> None:
    """Read DIRECTORY, a compressed NumPy file for each state, into a new STORE.

    Images that are not whole are listed and left out. Interrupted, the same command goes on;
    given again, it adds what has become whole.

    \b
    calibzarr import-legacy old/ stores/sd3.zarr
    calibzarr import-legacy old/ stores/sd3.zarr --prompts prompts.csv --model sd3-medium
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
    click.echo(f"{store}: {result.n_completed} of {result.num_images} images are complete")
    if result.interrupted:
        click.echo("stopped; go on with the same command")
        sys.exit(INTERRUPTED)
    tell("look at it with: ", Call("info", (store,)))


def _list(what: str, images: Mapping[int, str]) -> None:
    """Name some images with what is wrong, and count the others, on standard error."""
    for image, problem in list(images.items())[:_LISTED]:
        click.echo(f"warning: image {image} is {what}: {problem}", err=True)
    if len(images) > _LISTED:
        click.echo(f"warning: {len(images) - _LISTED} more images are {what}", err=True)

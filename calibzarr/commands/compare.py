"""``calibzarr compare``."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calibzarr.commands.command import INTERRUPTED, command
from calibzarr.commands.common import make_console, table_console, tell
from calibzarr.commands.spelling import spelled

if TYPE_CHECKING:
    from calibzarr.comparison.result import Comparison

_file = click.Path(path_type=Path)


def _function(text: str) -> Callable[..., Any]:
    """Import ``MODULE:FUNCTION``, also from the working directory."""
    module, _, name = text.partition(":")
    sys.path.insert(0, "")
    try:
        function = getattr(import_module(module), name) if module and name else None
    except (ImportError, AttributeError) as error:
        raise click.BadParameter(f"{text!r} cannot be imported: {error}") from error
    finally:
        sys.path.remove("")
    if not callable(function):
        raise click.BadParameter(f"{text!r} is not MODULE:FUNCTION, such as my_features:embed")
    return function  # type: ignore[no-any-return]


@command("compare", {"How": "features", "Output": "json_file csv_file force"})
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("runs", metavar="RUN...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--json",
    "json_file",
    type=_file,
    metavar="FILE",
    show_default="none",
    help="Write all figures here.",
)
@click.option(
    "--csv",
    "csv_file",
    type=_file,
    metavar="FILE",
    show_default="none",
    help="And those of each image.",
)
@click.option(
    "--features",
    type=_function,
    metavar="MODULE:FUNCTION",
    show_default="VAE latents",
    help="Makes features of pictures for the Frechet distance.",
)
@click.option("--force", is_flag=True, help="Overwrite the files.")
def compare_command(
    reference: Path,
    runs: tuple[Path, ...],
    json_file: Path | None,
    csv_file: Path | None,
    features: Callable[..., Any] | None,
    force: bool,
) -> None:
    """Compare RUNs of the same prompts and seeds with REFERENCE.

    What counts are the images that are complete in all of them. Columns: PSNR and SSIM of
    pictures, and their Frechet distance; SQNR of final latents; SQNR of the model's output where
    every call starts from REFERENCE's state, which is what the model itself loses. FUNCTION gets
    uint8 pictures (image, row, column, rgb) and gives floats (image, feature). Of the run of a
    quantized checkpoint, figures go into the checkpoint's README.md.

    \b
    calibzarr compare stores/tiny.zarr stores/w4.zarr
    calibzarr compare stores/tiny.zarr w4.zarr w6.zarr --csv images.csv
    """
    from calibzarr.comparison import comparing
    from calibzarr.comparison.plan import plan
    from calibzarr.export import comparison as files
    from calibzarr.export import measured
    from calibzarr.export.destination import check_free
    from calibzarr.storage import durable

    for file in (json_file, csv_file):
        if file is not None:
            check_free(file, (reference, *runs), force=force)
    try:
        found = comparing.run(plan(reference, runs), make_console(), features)
    except KeyboardInterrupt:
        tell("stopped; nothing is written")
        sys.exit(INTERRUPTED)
    _print(found)
    for file, content in ((json_file, files.json_bytes), (csv_file, files.csv_bytes)):
        if file is not None:
            durable.write(file, content(found))
            tell(f"{file}: {len(found.runs)} runs, {len(found.images)} images")
    for message in measured.write_cards(found, datetime.now(UTC).date()):
        tell(message)


def _print(found: "Comparison") -> None:
    from rich.table import Table

    from calibzarr.comparison import result

    console = table_console()
    console.print(result.heading(found), soft_wrap=True)
    table = Table(box=None)
    table.add_column(overflow="fold")
    for heading in result.HEADINGS[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result.rows(found):
        table.add_row(*row)
    console.print(table)
    for message in result.sentences(found):
        console.print(spelled(message), soft_wrap=True)

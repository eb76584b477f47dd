"""What the commands share: arguments, options, and how they print."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from calibzarr.commands.command import is_quiet
from calibzarr.commands.spelling import spelled
from calibzarr.errors import Call, Message, Option
from calibzarr.visible import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_ROOM = 10_000  # characters of a line where no terminal limits it

_Command = TypeVar("_Command", bound=Callable[..., None])


def integers(text: str, expected: str) -> list[int]:
    """Parse numbers with commas between.

    Raises:
        click.BadParameter: if it is none; says what was expected.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"{text!r} is not {expected}")
    return [int(part) for part in parts]


def tell(*parts: str | Call | Option | Message, err: bool = False) -> None:
    """Print a line, with its parameters and calls as they are typed."""
    click.echo(visible(spelled(Message(*parts))), err=err)


def hint(*parts: str | Call | Option | Message) -> None:
    """Print what can be done next, unless the user wants quiet."""
    if not is_quiet():
        tell(*parts)


store_argument = click.argument("store", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def image_range(text: str) -> tuple[int, int]:
    """Parse ``A:B``, images A to B - 1; which are allowed depends on the store.

    Raises:
        click.BadParameter: if there are no two numbers; click says of which option.
    """
    first, colon, end = text.partition(":")
    if not (colon and first.isdecimal() and end.isdecimal()):
        raise click.BadParameter(f"{text!r} is not a range of images such as 0:100")
    return int(first), int(end)


def images_option(help_text: str) -> Callable[[_Command], _Command]:
    """The option ``--images A:B``."""
    return click.option(
        "--images", type=image_range, metavar="A:B", show_default="all", help=help_text
    )


def note_cut(console: "Console", images: tuple[int, int] | None, num_images: int) -> None:
    """Tell that a range of images goes past the end of a store."""
    if images is not None and images[1] > num_images:
        console.print(f"there are {num_images} images: taking {images[0]}:{num_images}")


def make_console(*, on_terminal_alone: bool = False) -> "Console":
    """Where a command tells what it is doing: standard error.

    Args:
        on_terminal_alone: whether to tell nothing anywhere else, as is right for some seconds.
    """
    from calibzarr.progress import progress_console

    return progress_console(None if on_terminal_alone and not is_quiet() else not is_quiet())


def table_console() -> "Console":
    """Where a command prints tables, which are results: standard output.

    A pipe or a file has room for everything: nothing is cut or wrapped there.
    """
    from calibzarr.progress import VisibleConsole

    console = VisibleConsole()
    if not console.is_terminal:
        console.width = _ROOM
    return console


def print_table(console: "Console", table: "Table") -> None:
    """Print a table, without the blanks that would fill its last column up."""
    with console.capture() as capture:
        console.print(table)
    console.file.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))

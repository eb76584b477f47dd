"""What the commands share: options, how they print, and how messages are spelled for them."""

import os
import shlex
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from calibzarr.errors import Call, Explained, Message, Option, OptionError

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130  # exit code by the shells' convention: 128 + SIGINT

_Command = TypeVar("_Command", bound=Callable[..., None])
_QUIET = "calibzarr.quiet"  # in click's own memory, which a group shares with its commands


class _BadOption(click.ClickException):
    exit_code = 2


def one_line_errors(command: _Command) -> _Command:
    """Turn the library's errors into one line and an exit code."""

    @wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except OptionError as error:
            raise _BadOption(spelled(error.message)) from error
        except Explained as error:
            raise click.ClickException(spelled(error.message)) from error
        except OSError as error:
            raise click.ClickException(_os_message(error)) from error
        except (ValueError, RuntimeError, MemoryError, ModuleNotFoundError) as error:
            raise click.ClickException(str(error)) from error

    return wrapper  # type: ignore[return-value]


def _os_message(error: OSError) -> str:
    if error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return error.strerror or str(error)


_RENAMED = {"latent_dtype": "dtype", "file_format": "format"}  # parameters in Python: options here


def spelled(message: Message | str) -> str:
    """A message with its parameters and calls as they are typed on a command line."""
    if isinstance(message, str):
        return message
    return "".join(_spelled_part(part) for part in message.parts)


def _spelled_part(part: str | Option | Call) -> str:
    if isinstance(part, Option):
        return " ".join(_typed(part.name, part.value))
    if isinstance(part, Call):
        return command_line(part)
    return part


def command_line(call: Call) -> str:
    """A call as the command that does the same, ready to be pasted.

    >>> command_line(Call("build", ("my store",), {"resume": True, "images": (0, 4)}))
    "calibzarr build 'my store' --resume --images 0:4"
    """
    arguments = [shlex.quote(str(argument)) for argument in call.arguments]
    options = [word for name, value in call.keywords.items() for word in _typed(name, value)]
    return " ".join([program(), call.function.replace("_", "-"), *arguments, *options])


def _typed(name: str, value: object) -> list[str]:
    """Words of an option; the option alone where no value is said, or it is a flag."""
    option = "--" + _RENAMED.get(name, name).replace("_", "-")
    if value is None or value is True:
        return [option]
    if value is ...:
        return [option, option[2:].rpartition("-")[2].upper()]
    if isinstance(value, tuple) and all(isinstance(one, str) for one in value):
        return [word for one in value for word in (option, shlex.quote(one))]  # a repeatable one
    if isinstance(value, tuple):
        return [option, "{}:{}".format(*value)]
    if isinstance(value, list):
        return [option, ",".join(map(str, value))]
    return [option, shlex.quote(str(value))]


def integers(text: str, expected: str) -> list[int]:
    """Parse numbers with commas between.

    Raises:
        click.BadParameter: if it is none; says what was expected.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"{text!r} is not {expected}")
    return [int(part) for part in parts]


def program() -> str:
    """What was typed to run this command line, up to the command."""
    if os.environ.get("UV_RUN_RECURSION_DEPTH"):
        return "uv run calibzarr"
    if Path(sys.argv[0]).name == "__main__.py":
        return "python -m calibzarr"
    return "calibzarr"


def tell(*parts: str | Call | Option | Message, err: bool = False) -> None:
    """Print a line, with its parameters and calls as they are typed."""
    click.echo(spelled(Message(*parts)), err=err)


def _remember_quiet(context: click.Context, _parameter: click.Parameter, given: bool) -> None:
    context.meta[_QUIET] = given or is_quiet()


def is_quiet() -> bool:
    """Whether the command that runs, or its group, was told to be quiet."""
    return bool(click.get_current_context().meta.get(_QUIET, False))


quiet_option = click.option(
    "-q",
    "--quiet",
    is_flag=True,
    expose_value=False,
    callback=_remember_quiet,
    help="Print nothing but results and errors.",
)

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
    return click.option("--images", type=image_range, metavar="A:B", help=help_text)


def make_console() -> "Console":
    """Where a command tells what it is doing: standard error."""
    from calibzarr.progress import progress_console

    return progress_console(not is_quiet())


def table_console() -> "Console":
    """Where a command prints tables, which are results: standard output."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)  # a path may hold brackets

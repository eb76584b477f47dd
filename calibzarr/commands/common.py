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
    if isinstance(value, tuple):
        return [option, "{}:{}".format(*value)]
    if isinstance(value, list):
        return [option, ",".join(map(str, value))]
    return [option, shlex.quote(str(value))]


def program() -> str:
    """What was typed to run this command line, up to the command."""
    if os.environ.get("UV_RUN_RECURSION_DEPTH"):
        return "uv run calibzarr"
    if Path(sys.argv[0]).name == "__main__.py":
        return "python -m calibzarr"
    return "calibzarr"


quiet_option = click.option(
    "-q", "--quiet", is_flag=True, help="Print nothing but results and errors."
)

store_argument = click.argument("store", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def with_targets(command: _Command) -> _Command:
    """Add the options that say what SQNR is wanted."""
    for what, default in (("weight", 20.0), ("activation", 30.0)):
        command = click.option(
            f"--{what}-target",
            type=float,
            default=default,
            show_default=True,
            help=f"SQNR that the {what}s of a layer are to reach, dB.",
        )(command)
    return command


class ImageRange(click.ParamType):
    """``A:B``, images A to B - 1."""

    name = "A:B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Parse the two numbers; which are allowed depends on the store."""
        first, colon, end = str(value).partition(":")
        if not (colon and first.isdecimal() and end.isdecimal()):
            self.fail(f"{value!r} is not a range of images such as 0:100", param, ctx)
        return int(first), int(end)


def make_console(quiet: bool = False, stderr: bool = True) -> "Console":
    """A console for lines, on standard error, or for tables, on standard output."""
    from rich.console import Console

    return Console(
        stderr=stderr,
        quiet=quiet,
        soft_wrap=stderr,  # lines, not tables
        highlight=False,
        markup=False,  # a path may hold brackets
        emoji=False,
    )

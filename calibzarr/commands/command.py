"""What kind of commands the command line is made of: their help, errors and verbosity."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import cleandoc
from typing import Any

import click

from calibzarr.commands.spelling import TYPED, spelled, typed_name, typed_path
from calibzarr.errors import Explained, MissingFilesError, OptionError
from calibzarr.visible import visible

INTERRUPTED = 130  # exit code by the shells' convention: 128 + SIGINT

_QUIET, _VERBOSE = "calibzarr.quiet", "calibzarr.verbose"  # in click's own memory
_DEFAULT_IN_WORDS = re.compile(r"\[default: \((.*)\)")  # click puts words in brackets
_GENERAL = "General"  # title of the options that every command has
_NEVER_CUT = 10**6  # characters of a summary


def _remember_quiet(context: click.Context, _parameter: click.Parameter, given: bool) -> None:
    context.meta[_QUIET] = given or context.meta.get(_QUIET, False)
    if given:
        _start_log(context, 0)


def _remember_verbose(context: click.Context, _parameter: click.Parameter, times: int) -> None:
    context.meta[_VERBOSE] = context.meta.get(_VERBOSE, 0) + times
    if times:
        _start_log(context, context.meta[_VERBOSE])


def _start_log(context: click.Context, times: int) -> None:
    from calibzarr.commands import log

    context.call_on_close(log.start(times))


def _general_options() -> list[click.Parameter]:
    """Options that the group and every command have."""
    verbose = click.Option(
        ["-v", "--verbose"],
        count=True,
        expose_value=False,
        callback=_remember_verbose,
        show_default=False,
        help="Tell details; twice: DiffusionKit's as well.",
    )
    quiet = click.Option(
        ["-q", "--quiet"],
        is_flag=True,
        expose_value=False,
        callback=_remember_quiet,
        help="No progress, hints or notes.",
    )
    return [verbose, quiet]


def is_quiet() -> bool:
    """Whether the command that runs, or its group, was told to be quiet."""
    return bool(click.get_current_context().meta.get(_QUIET, False))


class Command(click.Command):
    """A command with its options in groups, its examples last, and errors of one line.

    Args:
        option_groups: titles, and the parameters below them; others stand below ``Options``.
    """

    def __init__(self, *args: Any, option_groups: Mapping[str, str], **settings: Any) -> None:
        text, _, examples = cleandoc(settings["help"] or "").partition("\n\n\b\n")
        super().__init__(*args, **{**settings, "help": text})
        self.examples = examples.splitlines()
        self.option_groups = {title: names.split() for title, names in option_groups.items()}
        self.general = _general_options()
        self.params += self.general

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember what was typed: messages name options by it."""
        ctx.meta[TYPED] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Turn the library's errors into one line and an exit code."""
        try:
            with _one_line_errors():
                return super().invoke(ctx)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write options in their groups, and those of every command last."""
        grouped = {name: title for title, names in self.option_groups.items() for name in names}
        titles = ("Options", *self.option_groups, _GENERAL)
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in titles}
        for parameter in self.get_params(ctx):
            is_general = parameter in self.general or parameter not in self.params  # as --help
            title = _GENERAL if is_general else grouped.get(parameter.name or "", "Options")
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                name, text = record
                sections[title].append((name, _DEFAULT_IN_WORDS.sub(r"[default: \1", text)))
        _write_sections(formatter, sections)

    def format_epilog(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class Group(click.Group):
    """Commands in sections, which help shows as they are given: in the order of the work."""

    def __init__(
        self, *args: Any, sections: Mapping[str, Sequence[click.Command]], **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self.params += _general_options()
        self.sections = sections
        for commands in sections.values():
            for command in commands:
                self.add_command(command)

    def list_commands(self, _: click.Context) -> list[str]:
        """All commands, in their order."""
        return list(self.commands)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write commands, then options."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """Write commands with their whole summaries."""
        sections = {
            title: [(str(one.name), one.get_short_help_str(_NEVER_CUT)) for one in commands]
            for title, commands in self.sections.items()
        }
        _write_sections(formatter, sections)


def _write_sections(
    formatter: click.HelpFormatter, sections: Mapping[str, list[tuple[str, str]]]
) -> None:
    """Write sections of (what, text), their texts below each other as far as room is."""
    widths = [min(len(what), 26) for rows in sections.values() for what, _ in rows]
    for title, rows in sections.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl([(f"{what:{max(widths)}}", text) for what, text in rows])


def command(
    name: str, option_groups: Mapping[str, str] | None = None
) -> Callable[[Callable[..., None]], Command]:
    """Make a function a :class:`Command`; its docstring is the help, with examples after ``\\b``.

    Args:
        name: as it is typed.
        option_groups: titles, and names of parameters below them, with spaces between.
    """
    return click.command(name=name, cls=Command, option_groups=option_groups or {})


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except (click.exceptions.Exit, click.Abort):  # which are RuntimeErrors
        raise
    except OptionError as error:
        raise _BadOption(spelled(error.message)) from error
    except MissingFilesError as error:
        raise _Missing(spelled(error.message), error.commands) from error
    except Explained as error:
        raise click.ClickException(spelled(error.message)) from error
    except OSError as error:
        raise click.ClickException(_os_message(error)) from error
    except (ValueError, RuntimeError, MemoryError, ModuleNotFoundError) as error:
        raise click.ClickException(str(error)) from error


class _BadOption(click.ClickException):
    exit_code = 2


class _Missing(click.ClickException):
    def __init__(self, message: str, commands: Sequence[str]) -> None:
        super().__init__(message)
        self.commands = commands


def _os_message(error: OSError) -> str:
    if error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return error.strerror or str(error)


def tell_error(error: click.ClickException) -> None:
    """Print an error on standard error, in one line; of a usage error also where help is."""
    if isinstance(error, click.BadParameter) and error.param is not None and error.ctx is not None:
        error.param_hint = repr(typed_name(error.param, error.ctx))
    text = " ".join(error.format_message().split())
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        text = f"{text}{'' if text[-1] in '.?)' else '.'} Try '{typed_path(context)} -h'."
    click.echo(visible(f"Error: {text}"), err=True)
    for line in error.commands if isinstance(error, _Missing) else ():
        click.echo(visible(line), err=True)

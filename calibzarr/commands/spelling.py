"""Parameters and calls as they are typed on this command line, and as it was typed itself."""

import os
import sys
from pathlib import Path

import click

from calibzarr.errors import Call, Message, Option
from calibzarr.visible import quoted

TYPED = "calibzarr.typed"  # words after the command, in click's own memory


def spelled(message: Message | str) -> str:
    """A message with its parameters and calls as they are typed on a command line."""
    if isinstance(message, str):
        return message
    return "".join(_spelled_part(part) for part in message.parts)


def _spelled_part(part: str | Option | Call) -> str:
    if isinstance(part, Call):
        return command_line(part)
    if isinstance(part, str):
        return part
    context = click.get_current_context(silent=True)
    parameter = None if context is None else _parameter(context.command, part.name)
    if context is None or parameter is None:
        return " ".join(_typed(_by_rule(part.name), part.value))
    return " ".join(_typed(typed_name(parameter, context), part.value))


def command_line(call: Call) -> str:
    """A call as the command that does the same, ready to be pasted.

    >>> command_line(Call("build", ("my store",), {"resume": True, "images": (0, 4)}))
    "calibzarr build 'my store' --resume --images 0:4"
    """
    name = call.function.replace("_", "-")
    command = _command(name)
    words = [program(), name, *(quoted(str(argument)) for argument in call.arguments)]
    for keyword, value in call.keywords.items():
        parameter = None if command is None else _parameter(command, keyword)
        words += _typed(_by_rule(keyword) if parameter is None else _longest(parameter), value)
    return " ".join(words)


def _command(name: str) -> click.Command | None:
    """The command of a name, where a command line is at work."""
    context = click.get_current_context(silent=True)
    group = None if context is None else context.find_root().command
    return group.commands.get(name) if isinstance(group, click.Group) else None


def _parameter(command: click.Command, name: str) -> click.Parameter | None:
    """The parameter of a command that stands for one in Python."""
    return next((parameter for parameter in command.params if parameter.name == name), None)


def _by_rule(name: str) -> str:
    return "--" + name.replace("_", "-")


def _longest(parameter: click.Parameter) -> str:
    """The long name of an option, or what help calls an argument."""
    if isinstance(parameter, click.Argument):
        return parameter.metavar or (parameter.name or "").upper()
    return next((name for name in parameter.opts if name.startswith("--")), parameter.opts[0])


def typed_name(parameter: click.Parameter, context: click.Context) -> str:
    """How a parameter was called by who gave it, or its long name."""
    words = {word.partition("=")[0] for word in context.meta.get(TYPED, ())}
    names = (*parameter.opts, *parameter.secondary_opts)
    return next((name for name in names if name in words), _longest(parameter))


def _typed(option: str, value: object) -> list[str]:
    """Words of an option; the option alone where no value is said, or it is a flag."""
    if value is None or value is True:
        return [option]
    if value is ...:
        return [option, option[2:].rpartition("-")[2].upper()]
    if isinstance(value, tuple) and all(isinstance(one, str) for one in value):
        return [word for one in value for word in (option, quoted(one))]  # a repeatable one
    if isinstance(value, tuple):
        return [option, "{}:{}".format(*value)]
    if isinstance(value, list):
        return [option, ",".join(map(str, value))]
    return [option, quoted(str(value))]


def program() -> str:
    """What was typed to run this command line, up to the command, so that it can be typed again."""
    if os.environ.get("UV_RUN_RECURSION_DEPTH"):
        return f"{_executable(os.environ.get('UV') or 'uv')} run calibzarr"
    if Path(sys.argv[0]).parts[-2:] == ("calibzarr", "__main__.py"):
        return f"{_executable(sys.executable)} -m calibzarr"
    return _executable(sys.argv[0]) if Path(sys.argv[0]).name == "calibzarr" else "calibzarr"


def typed_path(context: click.Context) -> str:
    """What was typed up to the command that a context is of."""
    names = []
    while context.parent is not None:
        names.append(context.info_name or "")
        context = context.parent
    return " ".join([program(), *reversed(names)])


def _executable(path: str) -> str:
    """The name of a program where it is found by that, else its path."""
    name = os.path.basename(path)
    if name == path:
        return name
    from shutil import which

    found, file = which(name), os.path.abspath(path)
    if found is not None and os.path.abspath(found) == file:
        return name
    below = os.path.relpath(file)
    return quoted(file if below.startswith(os.pardir) else below)

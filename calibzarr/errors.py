"""Errors that users can do something about, told so that they know what.

A message names parameters and calls as data, not as text: in Python it reads as Python, and the
commands spell it as it is typed there.
"""

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

_FEW = 30  # names that are listed whole


@dataclass(frozen=True)
class Option:
    """A parameter that a message names.

    Attributes:
        name: its name in Python.
        value: the value to give it, if the message says one.
    """

    name: str
    value: object = None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={_literal(self.value)}"


@dataclass(frozen=True)
class Call:
    """A call of calibzarr's that a message tells to make.

    Attributes:
        function: its name in Python, such as ``import_legacy``; the command has the same.
        arguments: positional ones; capital letters stand for what the user knows.
        keywords: named ones, by their names in Python; a value of ``...`` is the user's to say.
    """

    function: str
    arguments: tuple[str | Path, ...] = ()
    keywords: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        arguments = [_literal(argument) for argument in self.arguments]
        arguments += [f"{name}={_literal(value)}" for name, value in self.keywords.items()]
        return f"calibzarr.{self.function}({', '.join(arguments)})"


def _literal(value: object) -> str:
    if value is ...:
        return "..."
    return repr(str(value) if isinstance(value, Path) else value)


class Message:
    """A text whose parameters and calls are data.

    Args:
        *parts: text, with :class:`Option` and :class:`Call` between.
    """

    def __init__(self, *parts: "str | Option | Call | Message") -> None:
        self.parts: tuple[str | Option | Call, ...] = tuple(
            inner
            for part in parts
            for inner in (part.parts if isinstance(part, Message) else (part,))
        )

    def __str__(self) -> str:
        return "".join(map(str, self.parts))


class Explained(Exception):
    """An error with a :class:`Message`; subclasses say which of Python's errors it is as well."""

    def __init__(self, *parts: str | Option | Call | Message) -> None:
        self.message = Message(*parts)
        super().__init__(str(self.message))


class OptionError(Explained, ValueError):
    """A value that the caller chose is not allowed; commands exit with 2 for it, else with 1."""


class StoreError(Explained, ValueError):
    """A store, or another file, cannot be used as it is."""


class TakenError(Explained, FileExistsError):
    """Something else stands where a result would go."""


class MissingFilesError(Explained, FileNotFoundError):
    """Files that can be fetched are not on this machine.

    Args:
        *parts: of the message.
        commands: of a shell, that fetch them.
    """

    def __init__(self, *parts: str | Option | Call | Message, commands: Sequence[str] = ()) -> None:
        super().__init__(*parts)
        self.commands = tuple(commands)

    def __str__(self) -> str:
        return "\n".join([str(self.message), *self.commands])


def at_least(name: str, value: float, least: float) -> None:
    """Check a parameter's lower bound.

    Raises:
        OptionError: if ``value`` is below ``least``, or no number.
    """
    if not value >= least:
        raise OptionError(Option(name), f" must be {least:g} or more, got {value}")


def check_known(name: str, value: str, known: Sequence[str]) -> None:
    """Check that a value is among those that there are.

    Args:
        name: what it is, one word.
        value: what the user wrote.
        known: what there is.

    Raises:
        OptionError: if not; lists near ones, and all of them unless they are many.
    """
    if value in known:
        return
    few = len(known) <= _FEW
    near = get_close_matches(value, known, n=3, cutoff=0.6 if few else 0.3)
    meant = f" did you mean {' or '.join(near)}?" if near else ""
    listed = f" There are: {', '.join(known)}" if few else ""
    raise OptionError(f"no {name} {value!r};{meant}{listed}".rstrip(";"))


def image_range(images: tuple[int, int], num_images: int, *, cut: bool = False) -> range:
    """The images that a pair of first and one past the last names.

    Args:
        images: the pair.
        num_images: images of the store.
        cut: whether to leave out those past the store's end.

    Raises:
        OptionError: if the store has no such images.
    """
    first, end = images
    if cut and first < num_images:
        end = min(end, num_images)
    if not 0 <= first < end <= num_images:
        raise OptionError(
            Option("images"),
            f" must be A:B with 0 <= A < B <= {num_images}, got {first}:{images[1]}",
        )
    return range(first, end)


@contextmanager
def disk_full_named(consequence: Callable[[], str | Message]) -> Iterator[None]:
    """Tell of a full disk what is left and what to do.

    Args:
        consequence: called if the disk is full; says the rest of the message.

    Raises:
        DiskFullError: in the place of an OSError that means a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError(error.errno, "the disk is full: ", consequence()) from error


class DiskFullError(Explained, OSError):
    """There is no room for a result."""

    def __init__(self, number: int, *parts: str | Option | Call | Message) -> None:
        super().__init__(*parts)
        self.errno = number


class OutOfMemoryError(Explained, MemoryError):
    """There is no memory for the work."""


class NonFiniteError(Explained, ArithmeticError):
    """What a model made is infinite or NaN."""


class WorkerError(Explained, RuntimeError):
    """A process that did part of the work is gone."""


@contextmanager
def out_of_memory_named(batch_size: int) -> Iterator[None]:
    """Tell of a lack of memory what it was for and what to do.

    Raises:
        OutOfMemoryError: in the place of Python's own error, or of MLX's.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise  # MLX raises RuntimeError for everything
        smaller = Message("use a smaller ", Option("batch_size"))
        remedy = smaller if batch_size > 1 else "close other programs"
        raise OutOfMemoryError(
            f"out of memory with {batch_size} images at a time; ", remedy, ", then go on"
        ) from error

"""What ``-v`` tells: lines of logging, on standard error."""

import logging
from collections.abc import Callable

import click

from calibzarr.visible import visible

_OURS = "calibzarr"


class _Lines(logging.Handler):
    """Prints through click, so that a bar on the terminal stays whole."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record in its own line."""
        click.echo(visible(f"{record.name}: {record.getMessage()}"), err=True)


def start(times: int) -> Callable[[], None]:
    """Tell what calibzarr does.

    Args:
        times: 2 or more: also what other libraries do; 0: nothing but errors.

    Returns:
        What ends it.
    """
    logger = logging.getLogger(None if times > 1 else _OURS)
    handler, before = _Lines(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if times else logging.ERROR)

    def end() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before)

    return end

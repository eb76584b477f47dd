"""Errors that users can do something about, told so that they know what."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class OptionError(ValueError):
    """A value that the caller chose is not allowed; commands exit with 2 for it, else with 1."""


@contextmanager
def disk_full_named(consequence: Callable[[], str]) -> Iterator[None]:
    """Tell of a full disk what is left and what to do.

    Args:
        consequence: called if the disk is full; says the rest of the message.

    Raises:
        OSError: in the place of one that means a full disk, with the same number.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(error.errno, f"the disk is full: {consequence()}") from error


@contextmanager
def out_of_memory_named(batch_size: int) -> Iterator[None]:
    """Tell of a lack of memory what it was for and what to do.

    Raises:
        MemoryError: in the place of Python's own, or of MLX's.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise  # MLX raises RuntimeError for everything
        remedy = "use a smaller --batch-size" if batch_size > 1 else "close other programs"
        raise MemoryError(
            f"out of memory with {batch_size} images at a time; {remedy}, then go on"
        ) from error

"""What the shell offers for a word that is begun."""

from collections.abc import Iterable
from pathlib import Path

import click

from calibzarr.commands.spelling import TYPED


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def models(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of models."""
    from calibzarr.models import registry

    return _beginning(registry.names(), incomplete)


def sorts(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Orders of layers."""
    from calibzarr.advice.choices import SORTS

    return _beginning(SORTS, incomplete)


def coordinates(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Kinds or streams, whichever the option is of, of the layers of the store that is named."""
    from calibzarr.storage import objects
    from calibzarr.storage.manifest import read_root
    from calibzarr.storage.reading import open_statistics

    words = map(Path, context.meta.get(TYPED, ()))  # click parses none while a value is missing
    store = next((word for word in words if objects.exists(word)), None)
    if store is None:
        return []
    try:
        statistics = open_statistics(read_root(store))
    except (OSError, ValueError):  # nothing to offer yet
        return []
    return _beginning(dict.fromkeys(statistics[parameter.name].values.tolist()), incomplete)

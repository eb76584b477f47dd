"""``calibzarr info``."""

from itertools import groupby
from pathlib import Path
from typing import Any

from calibzarr import strict_json
from calibzarr.commands.command import command
from calibzarr.commands.common import (
    json_option,
    print_table,
    store_argument,
    table_console,
    tell,
)


@command("info")
@store_argument
@json_option
def info_command(store: Path, as_json: bool) -> None:
    """Tell what STORE holds, and how many images are complete.

    \b
    calibzarr info stores/tiny.zarr
    """
    from calibzarr.storage.reading import info as described

    description = described(store)
    if as_json:
        tell(strict_json.dumps(description, indent=2))
        return
    from rich.filesize import decimal
    from rich.table import Table

    from calibzarr.storage import schema

    told = {"libraries", "format", "num_images", "n_completed"}  # in other rows, or by all stores
    manifest = description["manifest"]
    table = Table(show_header=False, box=None)
    complete = f"{description['n_completed']} of {description['num_images']}"
    sizes = _grouped(description["bytes"])
    rows = {
        "store": description["path"],
        "complete images": complete,
        **{name: value for name, value in manifest.items() if _is_short(name, value, told)},
        **_run(manifest),
        "libraries": ", ".join(
            f"{name} {number}" for name, number in manifest["libraries"].items()
        ),
        "files": description["files"],
        "on disk": ", ".join(f"{name} {decimal(size)}" for name, size in sizes.items()),
        "collected": _collected(description["collected"]),
        "sensitivities": _measured(manifest.get(schema.SENSITIVITY)),
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    print_table(table_console(), table)


def _is_short(name: str, value: object, told: set[str]) -> bool:
    """Whether a value of the manifest is one to read, and not told elsewhere."""
    return name not in told and not isinstance(value, dict | list)


def _ranges(numbers: list[int]) -> str:
    """Increasing numbers, three or more in a row as a range.

    >>> _ranges([0, 1, 2, 3, 7, 9, 10])
    '0-3, 7, 9, 10'
    """
    parts: list[str] = []
    for _, together in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in together]
        parts += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run)
    return ", ".join(parts)


def _grouped(sizes: dict[str, int]) -> dict[str, int]:
    """Bytes of what is large, of statistics, of sensitivities, and of the rest."""
    from calibzarr.storage import schema

    group_of = {name: name for name in (schema.LATENTS.name, schema.DECODED.name)}
    for addition in (schema.COLLECTION, schema.MEASUREMENT):
        group_of.update(dict.fromkeys(addition.names, addition.title))
    grouped = dict.fromkeys([*group_of.values(), "other"], 0)
    for name, size in sizes.items():
        grouped[group_of.get(name, "other")] += size
    return grouped


def _run(manifest: dict[str, Any]) -> dict[str, str]:
    """Whose images a run makes again, and by what; nothing for any other store."""
    from calibzarr.storage import schema

    if schema.QUANTIZED not in manifest:
        return {}
    reference, quantized = manifest[schema.REFERENCE], manifest[schema.QUANTIZED]
    file = quantized["path"] or "made in Python"
    return {
        schema.REFERENCE: f"{reference['path']} (fingerprint {reference['fingerprint'][:12]})",
        schema.QUANTIZED: f"by a {quantized['kind']}, {file} (SHA-256 {quantized['sha256'][:12]})",
    }


def _measured(about: dict[str, Any] | None) -> str:
    if about is None:
        return "nothing yet"
    steps = _ranges(about["steps"])
    return f"{about['num_images']} images, {about['num_probes']} probes, steps {steps}"


def _collected(activations: dict[str, Any] | None) -> str:
    if activations is None:
        return "nothing yet"
    steps = _ranges(activations["steps"])
    return f"{activations['num_layers']} layers, {activations['num_images']} images, steps {steps}"

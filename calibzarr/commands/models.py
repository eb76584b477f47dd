"""``calibzarr models``."""

from typing import TYPE_CHECKING

from calibzarr.commands.command import command
from calibzarr.commands.common import table_console, tell

if TYPE_CHECKING:
    from calibzarr.models.entry import ModelEntry

_UNKNOWN = "unknown"


@command("models")
def models_command() -> None:
    """List the models, and whether their weights are here."""
    from rich.filesize import decimal
    from rich.table import Table

    from calibzarr.models import builtin, registry

    headings = ("model", "pixels", "steps", "cfg", "size", "weights", "what it is")
    table = Table(*headings, box=None)
    for column in table.columns[:-1]:
        column.no_wrap = True
    for name in registry.names():
        entry = registry.find_if_known(name)
        if entry is None:
            continue
        missing = entry.missing_files()
        weights = f"{len(missing)} missing" if missing else "here"
        table.add_row(
            entry.name,
            str(entry.image_size),
            str(entry.num_steps),
            f"{entry.cfg_weight:g}",
            _UNKNOWN if entry.weight_bytes is None else decimal(entry.weight_bytes),
            weights if entry.files else "embedded",
            _described(entry),
        )
    table_console().print(table)
    tell("size: of all weights in 16 bits, to fetch and in memory; weights: files that are missing")
    tell("licences: of the original models, by what pages on the web said of them on")
    tell(f"{builtin.LICENCES_READ}. Weights of your own: a safetensors file of the original names,")
    tell("or a directory or repository with one, or with DiffusionKit's quantized checkpoint")
    for problem in registry.problems():
        tell(problem, err=True)


def _described(entry: "ModelEntry") -> str:
    gated = {None: f"gated: {_UNKNOWN}", True: "gated", False: "not gated"}[entry.gated]
    licence = f"licence: {entry.licence or _UNKNOWN}"
    return "; ".join([entry.description, licence, *([gated] if entry.files else [])])

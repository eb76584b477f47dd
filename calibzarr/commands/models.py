"""``calibzarr models``."""

from calibzarr.commands.command import command
from calibzarr.commands.common import table_console, tell


@command("models")
def models_command() -> None:
    """List the models, and whether their weights are here."""
    from rich.table import Table

    from calibzarr.models import registry

    table = Table("model", "image size", "steps", "cfg weight", "weights", "description", box=None)
    table.columns[0].no_wrap = True
    for name in registry.names():
        entry = registry.find_if_known(name)
        if entry is None:
            continue
        missing = entry.missing_files()
        weights = f"{len(missing)} files missing" if missing else "here"
        table.add_row(
            entry.name,
            str(entry.image_size),
            str(entry.num_steps),
            f"{entry.cfg_weight:g}",
            weights if entry.files else "embedded",
            entry.description,
        )
    table_console().print(table)
    for problem in registry.problems():
        tell(problem, err=True)

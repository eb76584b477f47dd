"""``calibzarr repair``."""

from pathlib import Path
from typing import Any

import click

from calibzarr.commands import completion
from calibzarr.commands.command import command, is_quiet
from calibzarr.commands.common import store_argument, tell
from calibzarr.commands.spelling import command_line
from calibzarr.errors import Call


@command("repair", {"What the store has lost": "prompts model cfg_weight batch_size"})
@store_argument
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and change nothing.")
@click.option(
    "--prompts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    show_default="the copies of the store",
    help="The file that it was built from, if its prompts or seeds are lost.",
)
@click.option(
    "--model",
    show_default="as the manifest or its copy say",
    shell_complete=completion.models,
    help="What it was built with, if its manifest is lost with the copy.",
)
@click.option(
    "--cfg-weight", type=float, show_default="as the manifest or its copy say", help="The same."
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    show_default="as the manifest or its copy say",
    help="The same.",
)
def repair_command(store: Path, dry_run: bool, **options: Any) -> None:
    """Bring STORE in order, and tell what to run next.

    Leftovers of interrupted writes are removed, metadata and prompts restored, and images that are
    damaged moved into latents/damaged within the store, so that a build makes them again.

    \b
    calibzarr repair stores/tiny.zarr --dry-run
    calibzarr repair stores/tiny.zarr
    """
    from calibzarr.integrity.repair import repair

    result = repair(store, dry_run=dry_run, progress=not is_quiet(), **options)
    would = "would have " if dry_run else ""
    for action in result.actions:
        tell(f"{would}{action}")
    if not result.actions:
        tell(f"{result.path}: nothing to repair")
    for need in result.needed:
        tell("warning: ", need, err=True)
    is_now = "would be" if dry_run else "are"
    tell(f"{result.n_completed} of {result.num_images} images {is_now} complete")
    again = Call("repair", (result.path,))
    calls = [again] if dry_run and result.actions else result.calls
    tell("next: " + " && ".join(map(command_line, calls)))

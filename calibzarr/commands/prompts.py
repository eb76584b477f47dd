"""``calibzarr prompts``."""

import os
import sys
from pathlib import Path

import click

from calibzarr.commands.command import command
from calibzarr.commands.common import hint, tell
from calibzarr.errors import Call, Option, TakenError


@command("prompts", {"Prompts": "count seed", "Output": "file force"})
@click.option("--count", type=int, default=100, show_default=True, help="How many.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which of the lists.")
@click.option(
    "--out",
    "file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default="print them",
    help="Write them to FILE: CSV if its name ends with .csv, or else one a line.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def prompts_command(count: int, seed: int, file: Path | None, force: bool) -> None:
    """Make varied prompts for the large models, one a line.

    None comes twice. The same count and seed give the same prompts on every machine; a shorter
    list is the beginning of a longer one.

    \b
    calibzarr prompts --count 20
    calibzarr prompts --count 1000 --seed 7 --out prompts.csv
    """
    from calibzarr.prompts.general import make_prompts
    from calibzarr.prompts.lists import as_text
    from calibzarr.storage import durable

    prompts = make_prompts(count, seed)
    if file is None:
        _print(as_text(prompts, as_csv=False))
        return
    if file.exists() and not force:
        raise TakenError(f"{file} exists already; overwrite it with ", Option("force"))
    durable.write_result(file, as_text(prompts, as_csv=file.suffix.lower() == ".csv").encode())
    tell(f"{file}: {count} prompts")
    keywords = {"model": "sd3-medium", "prompts": file}
    hint("sample them with: ", Call("build", ("stores/sd3.zarr",), keywords))


def _print(text: str) -> None:
    try:
        tell(text.removesuffix("\n"))
    except BrokenPipeError:  # its reader has had enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

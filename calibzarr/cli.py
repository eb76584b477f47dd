"""The command line: the group of all commands, and how it ends."""

import sys

import click

from calibzarr import hang_up
from calibzarr.commands.analyze import analyze_command
from calibzarr.commands.build import build_command
from calibzarr.commands.collect import collect_command
from calibzarr.commands.command import INTERRUPTED, Group, tell_error
from calibzarr.commands.compare import compare_command
from calibzarr.commands.download import download_command
from calibzarr.commands.export_config import export_config_command
from calibzarr.commands.info import info_command
from calibzarr.commands.legacy import export_legacy_command, import_legacy_command
from calibzarr.commands.models import models_command
from calibzarr.commands.prompts import prompts_command
from calibzarr.commands.quantize import quantize_command
from calibzarr.commands.repair import repair_command
from calibzarr.commands.sensitivity import sensitivity_command
from calibzarr.commands.show import show_command
from calibzarr.commands.verify import verify_command

SECTIONS = {
    "Build": (models_command, download_command, prompts_command, build_command),
    "Look": (info_command, show_command),
    "Advise": (
        collect_command,
        sensitivity_command,
        analyze_command,
        export_config_command,
        quantize_command,
        compare_command,
    ),
    "Move": (export_legacy_command, import_legacy_command),
    "Mend": (verify_command, repair_command),
}
"""All commands in the order of the work: help shows them so."""


@click.group(
    cls=Group,
    sections=SECTIONS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(package_name="calibzarr")
@click.pass_context
def cli(context: click.Context) -> None:
    """Build calibration datasets for quantizing diffusion transformers, in one Zarr store.

    Words are completed with TAB after eval "$(_CALIBZARR_COMPLETE=bash_source calibzarr)",
    or zsh_source or fish_source, in the start-up file of your shell.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Run the command line; errors are one line on standard error."""
    with hang_up.interrupting():
        try:
            _run()
        except SystemExit as end:
            if hang_up.happened() and end.code == INTERRUPTED:
                sys.exit(hang_up.EXIT_CODE)
            raise


def _run() -> None:
    try:
        sys.exit(cli.main(prog_name="calibzarr", standalone_mode=False))
    except click.ClickException as error:
        tell_error(error)
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("stopped", err=True)
        sys.exit(INTERRUPTED)

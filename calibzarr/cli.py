"""The command line: the group of all commands, and how it ends."""

import sys

import click

from calibzarr.commands.analyze import analyze_command
from calibzarr.commands.build import build_command
from calibzarr.commands.collect import collect_command
from calibzarr.commands.common import INTERRUPTED, quiet_option
from calibzarr.commands.compare import compare_command
from calibzarr.commands.export_config import export_config_command
from calibzarr.commands.info import info
from calibzarr.commands.legacy import export_legacy_command, import_legacy_command
from calibzarr.commands.models import models
from calibzarr.commands.prompts import prompts_command
from calibzarr.commands.quantize import quantize_command
from calibzarr.commands.repair import repair_command
from calibzarr.commands.sensitivity import sensitivity_command
from calibzarr.commands.verify import verify_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="calibzarr")
@click.option("-v", "--verbose", is_flag=True, help="Tell more of what is going on.")
@quiet_option
def cli(verbose: bool) -> None:
    """Build calibration datasets for quantizing diffusion transformers, in one Zarr store."""
    if verbose:
        import logging

        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")


for _command in (
    build_command,
    prompts_command,
    collect_command,
    sensitivity_command,
    analyze_command,
    export_config_command,
    compare_command,
    quantize_command,
    verify_command,
    repair_command,
    export_legacy_command,
    import_legacy_command,
    info,
    models,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line; errors are one line on standard error."""
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.ClickException as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("stopped", err=True)
        sys.exit(INTERRUPTED)

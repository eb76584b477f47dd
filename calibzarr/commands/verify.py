"""``calibzarr verify``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from calibzarr import strict_json
from calibzarr.commands.command import command, is_quiet
from calibzarr.commands.common import json_option, store_argument, table_console, tell
from calibzarr.errors import Call

if TYPE_CHECKING:
    from calibzarr.integrity.findings import Report

_FAILED = 1


@command("verify", {"With the model": "model sample seed tolerance", "Output": "as_json"})
@store_argument
@click.option("--model", is_flag=True, help="Make some images again with the model, and compare.")
@click.option(
    "--sample", type=click.IntRange(1), show_default="4", help="How many images to make again."
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the choice of those images.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=2e-5,
    show_default=True,
    help="Greatest difference of their states that is let pass.",
)
@json_option
def verify_command(
    store: Path,
    model: bool,
    sample: int | None,
    seed: int,
    tolerance: float,
    as_json: bool,
) -> None:
    """Check whether STORE is whole and true.

    Every file, every state and every statistic is looked at. Exits with 1 if anything is wrong.
    Images that are not complete are no failure.

    \b
    calibzarr verify stores/tiny.zarr
    calibzarr verify stores/tiny.zarr --model --sample 8
    """
    from calibzarr.integrity.verification import verify

    if sample is not None and not model:
        raise click.UsageError("--sample needs --model")
    report = verify(
        store,
        model=model,
        sample=sample or 4,
        seed=seed,
        tolerance=tolerance,
        progress=not is_quiet(),
    )
    if as_json:
        tell(strict_json.dumps(report.as_json(), indent=2))
    else:
        _print(report)
    if not report.ok:
        sys.exit(_FAILED)


def _print(report: "Report") -> None:
    from rich.table import Table

    from calibzarr.integrity.findings import CHECKS

    console = table_console()
    summary = Table("check", "passed", "failed", "what it means", box=None)
    for name, counts in report.as_json()["checks"].items():
        summary.add_row(name, str(counts["passed"]), str(counts["failed"] or ""), CHECKS[name])
    console.print(summary)
    if report.findings:
        failures = Table("image", "check", "what is wrong", box=None, title="Failures")
        for finding in report.findings:
            image = "" if finding.image is None else str(finding.image)
            failures.add_row(image, finding.check, finding.message)
        console.print(failures)
    if "coordinates" not in report.as_json()["checks"]:
        tell("nothing else could be checked: mend this first")
    for note in report.notes:
        tell(f"note: {note}")
    if report.incomplete:
        count, total = len(report.incomplete), report.num_images
        tell(f"{count} of {total} images are not complete, which is no failure")
    if report.ok:
        tell(f"{report.path}: nothing is wrong")
    else:
        tell(f"{report.path}: failures: {len(report.findings)}")
        tell("mend what can be with: ", Call("repair", (report.path,)))

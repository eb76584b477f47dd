"""The commands: each parses, calls one function and prints."""

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from calibzarr.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from calibzarr.builder import Plan

INTERRUPTED = 130  # exit code by the shells' convention: 128 + SIGINT

_Command = TypeVar("_Command", bound=Callable[..., None])


class _BadOption(click.ClickException):
    exit_code = 2


def one_line_errors(command: _Command) -> _Command:
    """Turn the library's errors into one line and an exit code."""

    @wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except OptionError as error:
            raise _BadOption(str(error)) from error
        except OSError as error:
            raise click.ClickException(_os_message(error)) from error
        except (ValueError, ModuleNotFoundError) as error:
            raise click.ClickException(str(error)) from error

    return wrapper  # type: ignore[return-value]


def _os_message(error: OSError) -> str:
    if error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return error.strerror or str(error)


class ImageRange(click.ParamType):
    """``A:B``, images A to B - 1."""

    name = "A:B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Parse the two numbers; which are allowed depends on the store."""
        first, colon, end = str(value).partition(":")
        if not (colon and first.isdigit() and end.isdigit()):
            self.fail(f"{value!r} is not a range of images such as 0:100", param, ctx)
        return int(first), int(end)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="calibzarr")
@click.option("-v", "--verbose", is_flag=True, help="Tell more of what is going on.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but results and errors.")
@click.pass_context
def cli(context: click.Context, verbose: bool, quiet: bool) -> None:
    """Build calibration datasets for quantizing diffusion transformers, in one Zarr store."""
    context.obj = {"quiet": quiet}
    if verbose:
        import logging

        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")


@cli.command(name="build")
@click.argument("store", required=False, type=click.Path(path_type=Path))
@click.option("--model", help="Model to sample with; 'calibzarr models' lists them.")
@click.option(
    "--prompts",
    "--prompt-csv",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV file with a 'prompt' column (and 'seed'), or a text file, one prompt a line.",
)
@click.option("--num-images", type=click.IntRange(1), help="Images of the store.")
@click.option("--num-steps", type=click.IntRange(1), help="Model calls for each image.")
@click.option("--cfg-weight", type=float, help="Guidance weight; 0 for none.")
@click.option("--seed", type=click.IntRange(0), help="Seed of image 0; image i has seed + i.")
@click.option("--image-size", type=click.IntRange(1), help="Width and height in pixels.")
@click.option("--batch-size", type=click.IntRange(1), help="Images sampled together.")
@click.option("--dtype", type=click.Choice(["float32", "float16"]), help="Of stored latents.")
@click.option("--repeat", is_flag=True, help="Go through the prompts again, with new seeds.")
@click.option("--resume", is_flag=True, help="Go on with the store, or begin it.")
@click.option("--images", type=ImageRange(), help="Build only these images of the store.")
@click.pass_obj
@one_line_errors
def build_command(settings: dict[str, bool], store: Path | None, **options: Any) -> None:
    r"""Sample every prompt and keep every state in STORE.

    STORE is a directory, stores/<model>.zarr if not given. What is not given comes from the
    store that is resumed, or else from the model's defaults.

    \b
    calibzarr build
    calibzarr build stores/sd3.zarr --model sd3-medium --prompts prompts.csv
    calibzarr build stores/sd3.zarr --resume
    """
    from calibzarr import builder

    console = _console(settings)
    plan = builder.plan(store, latent_dtype=options.pop("dtype"), **options)
    console.print(_announcement(plan), soft_wrap=True)
    result = builder.run(plan, console)
    click.echo(f"{result.path}: {result.n_completed} of {result.num_images} images are complete")
    if result.n_completed < result.num_images:
        verb = "stopped; go on" if result.interrupted else "go on"
        click.echo(f"{verb} with: {builder.resume_command(result.path)}")
    else:
        click.echo(f"look at it with: calibzarr info {result.path}")
    if result.interrupted:
        sys.exit(INTERRUPTED)


def _announcement(plan: "Plan") -> str:
    missing = plan.missing()
    if not missing:
        return f"{plan.path}: nothing to build, its images are complete"
    size = plan.sizes.image_size
    return (
        f"{plan.path}: {len(missing)} images of {size}x{size} pixels, {plan.sizes.num_steps} "
        f"steps, with {plan.entry.name}, about {len(missing) * plan.image_bytes / 1e6:.1f} MB "
        f"on disk"
    )


@cli.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@one_line_errors
def info(store: Path, as_json: bool) -> None:
    r"""Tell what STORE holds and how many of its images are complete.

    \b
    calibzarr info stores/tiny.zarr
    """
    from calibzarr.info import describe

    description = describe(store)
    if as_json:
        click.echo(json.dumps(description, indent=2))
        return
    from rich.table import Table

    table = Table(show_header=False, box=None)
    complete = f"{description['n_completed']} of {description['num_images']}"
    sizes = {name: f"{count / 1e6:.2f} MB" for name, count in description["bytes"].items()}
    rows = {
        "store": description["path"],
        "complete images": complete,
        **{name: value for name, value in description["manifest"].items() if name != "libraries"},
        "libraries": ", ".join(
            f"{name} {number}" for name, number in description["manifest"]["libraries"].items()
        ),
        "files": description["files"],
        "on disk": ", ".join(f"{name} {size}" for name, size in sizes.items()),
        "collected": description["collected"] or "nothing yet",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    _console({"quiet": False}, stderr=False).print(table)


@cli.command()
@one_line_errors
def models() -> None:
    """List the models and whether their weights are on this machine."""
    from rich.table import Table

    from calibzarr.models.registry import MODELS

    table = Table("model", "image size", "steps", "cfg weight", "weights", "description", box=None)
    for entry in MODELS.values():
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
    _console({"quiet": False}, stderr=False).print(table)


def _console(settings: dict[str, bool], stderr: bool = True) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr, quiet=settings["quiet"], highlight=False)


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

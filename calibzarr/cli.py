"""The commands: each parses, calls one function and prints."""

import json
import shlex
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from calibzarr.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from calibzarr.build_plan import Plan
    from calibzarr.collector import Plan as CollectionPlan

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
        except (ValueError, RuntimeError, MemoryError, ModuleNotFoundError) as error:
            raise click.ClickException(str(error)) from error

    return wrapper  # type: ignore[return-value]


def _os_message(error: OSError) -> str:
    if error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return error.strerror or str(error)


_quiet = click.option("-q", "--quiet", is_flag=True, help="Print nothing but results and errors.")


class ImageRange(click.ParamType):
    """``A:B``, images A to B - 1."""

    name = "A:B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Parse the two numbers; which are allowed depends on the store."""
        first, colon, end = str(value).partition(":")
        if not (colon and first.isdecimal() and end.isdecimal()):
            self.fail(f"{value!r} is not a range of images such as 0:100", param, ctx)
        return int(first), int(end)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="calibzarr")
@click.option("-v", "--verbose", is_flag=True, help="Tell more of what is going on.")
@_quiet
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
@_quiet
@click.pass_obj
@one_line_errors
def build_command(
    settings: dict[str, bool], store: Path | None, quiet: bool, **options: Any
) -> None:
    r"""Sample every prompt and keep every state in STORE.

    STORE is a directory, stores/<model>.zarr if not given. What is not given comes from the
    store that is resumed, or else from the model's defaults.

    \b
    calibzarr build
    calibzarr build stores/sd3.zarr --model sd3-medium --prompts prompts.csv
    calibzarr build stores/sd3.zarr --resume
    """
    from calibzarr import build_plan, builder

    console = _console(quiet or settings["quiet"])
    plan = build_plan.plan(store, latent_dtype=options.pop("dtype"), **options)
    console.print(_announcement(plan))
    result = builder.run(plan, console)
    click.echo(f"{result.path}: {result.n_completed} of {result.num_images} images are complete")
    if result.interrupted:
        click.echo(f"stopped; go on with: {builder.resume_command(plan)}")
        sys.exit(INTERRUPTED)
    if result.n_completed < result.num_images and len(plan.images) == plan.num_images:
        click.echo(f"go on with: {builder.resume_command(plan)}")
    elif result.n_completed < result.num_images:
        click.echo("the other images are another builder's, or: " + _rest(result.path))
    else:
        click.echo(f"look at it with: calibzarr info {shlex.quote(str(result.path))}")


def _rest(path: Path) -> str:
    return f"calibzarr build {shlex.quote(str(path))} --resume"


def _announcement(plan: "Plan") -> str:
    from rich.filesize import decimal

    missing = plan.missing()
    if not missing:
        return f"{plan.path}: nothing to build, its images are complete"
    size = plan.sizes.image_size
    return (
        f"{plan.path}: {len(missing)} images of {size}x{size} pixels, {plan.sizes.num_steps} "
        f"steps, with {plan.entry.name}, about {decimal(len(missing) * plan.image_bytes)} on disk"
    )


class Steps(click.ParamType):
    """``key``, ``all``, or indices of states with commas between."""

    name = "key|all|LIST"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | list[int]:
        """Parse the indices; which are allowed depends on the store."""
        parts = str(value).split(",")
        if value in ("key", "all"):
            return str(value)
        if not all(part.strip().isdecimal() for part in parts):
            self.fail(f"{value!r} is not key, all, or indices such as 0,25,50", param, ctx)
        return [int(part) for part in parts]


@cli.command(name="collect")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--num-images",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Images that the statistics are to cover, spread evenly over the complete ones.",
)
@click.option("--images", type=ImageRange(), help="Exactly these images instead.")
@click.option("--steps", type=Steps(), default="key", show_default=True, help="States to replay.")
@click.option("--batch-size", type=click.IntRange(1), default=1, help="Images replayed together.")
@click.option("--force", is_flag=True, help="Start over; old statistics stay until then.")
@_quiet
@click.pass_obj
@one_line_errors
def collect_command(settings: dict[str, bool], store: Path, quiet: bool, **options: Any) -> None:
    r"""Replay STORE's latents through its model and add statistics of every layer.

    What was observed before stays and is added to: ask for more images, or other steps.

    \b
    calibzarr collect stores/tiny.zarr
    calibzarr collect stores/tiny.zarr --num-images 200 --steps all
    """
    from calibzarr import collector

    console = _console(quiet or settings["quiet"])
    plan = collector.plan(store, **options)
    if plan.asked > plan.found:
        console.print(
            f"{plan.asked} images were asked for, {plan.found} are complete: taking those"
        )
    console.print(_collection(plan))
    result = collector.run(plan, console)
    quoted = shlex.quote(str(store))
    covered = f"{result.num_images} images at {len(result.steps)} steps"
    if result.interrupted:
        click.echo(f"{store}: stopped; go on with: calibzarr collect {quoted}{_same(options)}")
        sys.exit(INTERRUPTED)
    click.echo(f"{store}: statistics of {result.num_layers} layers from {covered}")
    if result.non_finite:
        click.echo(f"warning: {result.non_finite} of the values were infinite or NaN", err=True)
    click.echo(f"look at them with: xarray.open_zarr({str(store)!r})")


def _collection(plan: "CollectionPlan") -> str:
    if not plan.replays:
        return f"{plan.path}: nothing new to observe"
    return f"{plan.path}: {plan.replays} model calls on stored latents"


def _same(options: dict[str, Any]) -> str:
    """The options that say what to collect, as they would be typed; --force would start over."""
    typed = []
    if options["images"]:
        typed.append("--images {}:{}".format(*options["images"]))
    else:
        typed.append(f"--num-images {options['num_images']}")
    steps = options["steps"]
    typed.append(f"--steps {steps if isinstance(steps, str) else ','.join(map(str, steps))}")
    typed.append(f"--batch-size {options['batch_size']}")
    return "".join(f" {option}" for option in typed)


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
    from rich.filesize import decimal
    from rich.table import Table

    table = Table(show_header=False, box=None)
    complete = f"{description['n_completed']} of {description['num_images']}"
    sizes = _grouped(description["bytes"])
    rows = {
        "store": description["path"],
        "complete images": complete,
        **{
            name: value
            for name, value in description["manifest"].items()
            if name not in ("libraries", "activations")
        },
        "libraries": ", ".join(
            f"{name} {number}" for name, number in description["manifest"]["libraries"].items()
        ),
        "files": description["files"],
        "on disk": ", ".join(f"{name} {decimal(size)}" for name, size in sizes.items()),
        "collected": _collected(description["collected"]),
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    _console(stderr=False).print(table)


def _grouped(sizes: dict[str, int]) -> dict[str, int]:
    """Bytes of what is large, of all statistics, and of the rest."""
    from calibzarr import schema

    large = (schema.LATENTS.name, schema.DECODED.name)
    statistics = {variable.name for variable in schema.COLLECTED_VARIABLES}
    return {
        **{name: sizes.get(name, 0) for name in large},
        "statistics": sum(size for name, size in sizes.items() if name in statistics),
        "other": sum(s for name, s in sizes.items() if name not in (*large, *statistics)),
    }


def _collected(activations: dict[str, Any] | None) -> str:
    if activations is None:
        return "nothing yet"
    steps = ", ".join(map(str, activations["steps"]))
    return f"{activations['num_layers']} layers, {activations['num_images']} images, steps {steps}"


@cli.command()
@one_line_errors
def models() -> None:
    """List the models and whether their weights are on this machine."""
    from rich.table import Table

    from calibzarr.models.registry import MODELS

    table = Table("model", "image size", "steps", "cfg weight", "weights", "description", box=None)
    table.columns[0].no_wrap = True
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
    _console(stderr=False).print(table)


def _console(quiet: bool = False, stderr: bool = True) -> "Console":
    from rich.console import Console

    return Console(
        stderr=stderr,
        quiet=quiet,
        soft_wrap=stderr,  # lines, not tables
        highlight=False,
        markup=False,  # a path may hold brackets
        emoji=False,
    )


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

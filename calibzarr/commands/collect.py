"""``calibzarr collect``."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calibzarr.commands.common import (
    INTERRUPTED,
    ImageRange,
    make_console,
    one_line_errors,
    quiet_option,
    store_argument,
)

if TYPE_CHECKING:
    from calibzarr.collecting.collector import CollectionPlan


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


@click.command(name="collect")
@store_argument
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
@quiet_option
@click.pass_obj
@one_line_errors
def collect_command(settings: dict[str, bool], store: Path, quiet: bool, **options: Any) -> None:
    r"""Replay STORE's latents through its model and add statistics of every layer.

    What was observed before stays and is added to: ask for more images, or other steps.

    \b
    calibzarr collect stores/tiny.zarr
    calibzarr collect stores/tiny.zarr --num-images 200 --steps all
    """
    from calibzarr.collecting import collector

    console = make_console(quiet or settings["quiet"])
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
    click.echo(f"look at them with: calibzarr analyze {quoted}")


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

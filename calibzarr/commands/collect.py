"""``calibzarr collect``."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from calibzarr.commands.command import INTERRUPTED, command
from calibzarr.commands.common import (
    hint,
    images_option,
    integers,
    make_console,
    note_cut,
    store_argument,
    tell,
)
from calibzarr.errors import Call

if TYPE_CHECKING:
    from calibzarr.collecting.plan import CollectionPlan


def _steps(text: str) -> str | list[int]:
    """Parse ``key``, ``all``, or indices with commas between; the store knows which there are."""
    if text in ("key", "all"):
        return text
    return integers(text, "key, all, or indices such as 0,25,50")


@command("collect", {"What to replay": "num_images images steps", "How": "batch_size force"})
@store_argument
@click.option(
    "--num-images",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Images that the statistics are to cover, spread evenly over the complete ones.",
)
@images_option("Exactly these images instead.")
@click.option(
    "--steps",
    type=_steps,
    metavar="key|all|LIST",
    default="key",
    show_default=True,
    help="States to replay.",
)
@click.option("--batch-size", type=click.IntRange(1), default=1, help="Images replayed together.")
@click.option("--force", is_flag=True, help="Start over; old statistics stay until then.")
def collect_command(store: Path, **options: Any) -> None:
    """Replay STORE's states, and add statistics of every layer.

    The latents go through the model that made them. What was observed before stays and is added
    to: ask for more images, or other steps.

    \b
    calibzarr collect stores/tiny.zarr
    calibzarr collect stores/tiny.zarr --num-images 200 --steps all
    """
    from calibzarr.collecting import collector
    from calibzarr.collecting.plan import plan as plan_collection

    console = make_console()
    plan = plan_collection(store, **options)
    note_cut(console, options["images"], len(plan.covered))
    source = click.get_current_context().get_parameter_source("num_images")
    if plan.asked > plan.found and (options["images"] or source is not ParameterSource.DEFAULT):
        console.print(
            f"{plan.asked} images were asked for, {plan.found} are complete: taking those"
        )
    console.print(_collection(plan))
    result = collector.run(plan, console)
    covered = f"{result.num_images} images at {len(result.steps)} steps"
    if result.interrupted:
        tell(f"{store}: stopped; go on with: ", _same(store, options))
        sys.exit(INTERRUPTED)
    tell(f"{store}: statistics of {result.num_layers} layers from {covered}")
    if result.non_finite:
        tell(f"warning: {result.non_finite} of the values were infinite or NaN", err=True)
    hint("look at them with: ", Call("analyze", (store,)))


def _collection(plan: "CollectionPlan") -> str:
    if not plan.replays:
        return f"{plan.path}: nothing new to observe"
    return f"{plan.path}: {plan.replays} model calls on stored latents"


def _same(store: Path, options: Mapping[str, Any]) -> Call:
    """The call that goes on: without ``force``, which would start over."""
    unsaid = {"force", "num_images" if options["images"] else "images"}
    return Call("collect", (store,), {k: v for k, v in options.items() if k not in unsaid})

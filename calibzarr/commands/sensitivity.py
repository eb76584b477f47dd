"""``calibzarr sensitivity``."""

import sys
from pathlib import Path
from typing import Any

import click

from calibzarr.commands.command import INTERRUPTED, command
from calibzarr.commands.common import hint, integers, make_console, store_argument, tell
from calibzarr.commands.spelling import spelled
from calibzarr.errors import Call
from calibzarr.quantization.choices import CLIPS

_CLEAR_DB = 1.0  # standard error from which more samples are advised


def _steps(text: str) -> str | int | list[int]:
    """Parse ``6``, ``key``, or indices with commas between; the store knows which there are."""
    if text == "key":
        return text
    numbers = integers(text, "6, key, or calls such as 4,12,20")
    return numbers[0] if text == "6" else numbers


@command("sensitivity", {"What to measure": "images probes steps clip", "How": "batch_size force"})
@store_argument
@click.option(
    "--images",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Collected images to measure with.",
)
@click.option(
    "--probes",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Random sums of the output, for each image at each step.",
)
@click.option(
    "--steps",
    type=_steps,
    metavar="6|key|LIST",
    default="6",
    show_default=True,
    help="Calls: two of each phase, the key steps, or a list.",
)
@click.option(
    "--clip",
    type=click.Choice(CLIPS),
    default="lp",
    show_default=True,
    help="How the ranges of activations are chosen.",
)
@click.option("--batch-size", type=click.IntRange(1), default=1, help="Images of one pass.")
@click.option("--force", is_flag=True, help="Start over; what the store has stays until then.")
def sensitivity_command(store: Path, **options: Any) -> None:
    """Measure what quantizing each layer does to the output.

    All quantizers and numbers of bits at once, by backward passes over stored states. What was
    measured before stays and is added to: ask for more images or probes.

    \b
    calibzarr sensitivity stores/tiny.zarr
    calibzarr sensitivity stores/tiny.zarr --images 16 --probes 8
    """
    from calibzarr.collecting import sensitivity, sensitivity_plan

    console = make_console()
    plan = sensitivity_plan.plan(store, **options)
    for note in plan.notes:
        console.print(spelled(note))
    console.print(f"{store}: {plan.passes} backward passes over stored states")
    result = sensitivity.run(plan, console)
    if result.interrupted:
        same = {name: value for name, value in options.items() if name != "force"}
        tell(f"{store}: stopped; go on with: ", Call("sensitivity", (store,), same))
        sys.exit(INTERRUPTED)
    tell(
        f"{store}: sensitivities of {result.num_layers} layers from {result.num_images} images "
        f"at {len(result.steps)} steps, {result.num_probes} probes"
    )
    if result.worst_error_db > _CLEAR_DB:
        more = {"images": result.num_images, "probes": 2 * result.num_probes}
        tell(
            f"the standard error of some layer is {result.worst_error_db:.1f} dB; for less: ",
            Call("sensitivity", (store,), more),
        )
    hint("look at them with: ", Call("analyze", (store,)))

"""``calibzarr quantize``."""

import re
import sys
from pathlib import Path
from typing import Any

import click

from calibzarr.commands.command import INTERRUPTED, command
from calibzarr.commands.common import hint, integers, make_console, store_argument, tell
from calibzarr.commands.spelling import spelled
from calibzarr.errors import Call

_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def _bytes(text: str) -> float:
    """Parse ``1.6GB``; units are powers of 1,000."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?) ?([KMG]?B|)", text.upper())
    if found is None:
        raise click.BadParameter(f"{text!r} is not a size such as 1.6GB")
    return float(found[1]) * _BYTES[found[2]]


def _groups(text: str) -> list[int]:
    """Parse ``32,64``."""
    return integers(text, "a list of groups such as 32,64,128")


@command(
    "quantize",
    {
        "Bits": "bits_per_weight size groups keep",
        "Rounding": "rounding images memory tune",
    },
)
@store_argument
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--bits-per-weight",
    type=float,
    show_default="none; this or --size is needed",
    help="Mean, scales and biases counted.",
)
@click.option(
    "--size",
    type=_bytes,
    metavar="BYTES",
    show_default="none",
    help="Or the file's size, such as 1.6GB.",
)
@click.option(
    "--groups",
    type=_groups,
    metavar="LIST",
    default="32,64,128",
    show_default=True,
    help="Sizes of groups to choose from.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="PATTERN",
    show_default="none",
    help="Layers that stay as they are; may be repeated.",
)
@click.option(
    "--rounding",
    type=click.Choice(["gptq", "nearest"]),
    default="gptq",
    show_default=True,
    help="Make up for errors with Hessians of replayed inputs, or round.",
)
@click.option(
    "--images",
    type=click.IntRange(1),
    default=48,
    show_default=True,
    help="That the Hessians are of, at most.",
)
@click.option(
    "--memory",
    type=click.FloatRange(0),
    show_default="half of what is free",
    help="GB for Hessians.",
)
@click.option(
    "--tune",
    type=float,
    metavar="MINUTES",
    show_default="not at all",
    help="Then tune scales and biases until outputs are those of the store.",
)
@click.option(
    "--t5",
    type=int,
    metavar="BITS",
    show_default="not at all",
    help="Quantize the text encoder T5 as well, uniformly.",
)
def quantize_command(
    store: Path, out: Path, rounding: Any, memory: float | None, **options: Any
) -> None:
    """Write a quantized checkpoint of STORE's model to OUT.

    MLX loads it. Bits and groups of each layer by its sensitivity, weights rounded by GPTQ.

    \b
    calibzarr quantize stores/tiny.zarr tiny-4.5 --bits-per-weight 4.5
    calibzarr quantize stores/sd3.zarr sd3-quantized --size 1.2GB
    """
    from calibzarr.export import card, checkpoint_plan, quantizing

    console = make_console()
    plan = checkpoint_plan.plan(store, out, **options)
    for note in plan.notes:
        console.print(spelled(note))
    gigabytes = None if memory is None else memory * 10**9
    result = quantizing.run(plan, console, rounding=rounding, memory=gigabytes)
    if result.interrupted:
        same = {**options, "rounding": rounding, "memory": memory}
        given = {name: value for name, value in same.items() if value}
        tell(f"{out}: stopped; go on with: ", Call("quantize", (store, out), given))
        sys.exit(INTERRUPTED)
    tell(f"{out}: {card.summary(result.allocation)}")
    for line in card.text_encoder(result.t5):
        tell(line)
    for line in card.quality(result.allocation, result.output_sqnr_db):
        tell(line)
    tell(card.memory_in_words(result.memory))
    run = Call("build", ("STORE2",), {"reference": store, "model": out})
    hint("see what it does to pictures with: ", run)

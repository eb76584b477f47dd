"""``calibzarr build``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calibzarr.commands import completion
from calibzarr.commands.command import INTERRUPTED, command
from calibzarr.commands.common import hint, images_option, make_console, tell
from calibzarr.errors import Call

if TYPE_CHECKING:
    from calibzarr.sampling.plan import BuildPlan


@command(
    "build",
    {
        "What to sample": "model prompts num_images repeat seed",
        "How": "num_steps cfg_weight guidance image_size batch_size latent_dtype",
        "Which part": "resume images dry_run",
        "A quantized model": "reference quantized",
    },
)
@click.argument("store", required=False, type=click.Path(path_type=Path))
@click.option(
    "--model",
    show_default="tiny",
    shell_complete=completion.models,
    help="Model to sample with; 'calibzarr models' lists them. Or a file, directory or repository "
    "of weights. With --reference: OUT of quantize.",
)
@click.option(
    "--prompts",
    "--prompt-csv",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    show_default="the model's own",
    help="CSV file with a 'prompt' column (and 'seed'), or a text file, one prompt a line.",
)
@click.option(
    "--num-images",
    type=click.IntRange(1),
    show_default="all prompts of the file, or 16 of tiny's",
    help="Images of the store.",
)
@click.option(
    "--num-steps",
    type=click.IntRange(1),
    show_default="the model's",
    help="Model calls for each image.",
)
@click.option(
    "--cfg-weight", type=float, show_default="the model's", help="Guidance weight; 0 for none."
)
@click.option(
    "--guidance",
    type=float,
    show_default="3.5 for flux-dev, which alone takes it",
    help="What the model is told of guidance.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    show_default="0",
    help="Seed of image 0; image i has seed + i.",
)
@click.option(
    "--image-size",
    type=click.IntRange(1),
    show_default="the model's",
    help="Width and height in pixels.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), show_default="1", help="Images sampled together."
)
@click.option(
    "--dtype",
    "latent_dtype",
    type=click.Choice(["float32", "float16"]),
    show_default="float32",
    help="Of stored latents.",
)
@click.option("--repeat", is_flag=True, help="Go through the prompts again, with new seeds.")
@click.option("--resume", is_flag=True, help="Go on with the store; or begin it, if told of what.")
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    show_default="none",
    help="Make this store's images again, with its model, prompts, seeds and settings.",
)
@click.option(
    "--quantized",
    type=click.Path(path_type=Path),
    show_default="none",
    help="How the model is quantized for that: a file of export-config.",
)
@images_option("Build only these images of the store.")
@click.option("--dry-run", is_flag=True, help="Only say what it will take; build nothing.")
def build_command(store: Path | None, *, dry_run: bool, **options: Any) -> None:
    """Sample every prompt and keep every state in STORE.

    STORE is a directory, stores/<model>.zarr if not given. What is not given comes from the
    store that is resumed, or else from the model's defaults.

    \b
    calibzarr build
    calibzarr build stores/sd3.zarr --model sd3-medium --prompts prompts.csv
    calibzarr build stores/sd3.zarr --resume
    calibzarr build w4.zarr --reference stores/sd3.zarr --quantized w4.json
    calibzarr build q45.zarr --reference stores/sd3.zarr --model sd3-4.5
    """
    from calibzarr.sampling import builder
    from calibzarr.sampling import plan as build_plan
    from calibzarr.sampling.options import BuildOptions

    console = make_console()
    plan = build_plan.plan(store, BuildOptions(**options))
    if plan.root is None and options["resume"]:
        console.print(f"{plan.path}: there is no store yet; it begins here")
    if dry_run:
        return tell(_forecast(plan))
    console.print(_announcement(plan))
    result = builder.run(plan, console)
    tell(f"{result.path}: {result.n_completed} of {result.num_images} images are complete")
    if result.interrupted:
        tell("stopped; go on with: ", builder.resume_call(plan))
        sys.exit(INTERRUPTED)
    if result.n_completed == result.num_images:
        if plan.run is None:
            hint("look at it with: ", Call("info", (result.path,)))
        else:
            hint("compare it with: ", Call("compare", (plan.run.reference["path"], result.path)))
    elif len(plan.images) == plan.num_images:
        hint("go on with: ", builder.resume_call(plan))
    else:
        everything = Call("build", (result.path,), {"resume": True})
        hint("the other images are another builder's, or: ", everything)


def _forecast(plan: "BuildPlan") -> str:
    from rich.filesize import decimal

    from calibzarr.progress import duration
    from calibzarr.sampling.forecast import forecast

    found = forecast(plan)
    seconds = found.seconds
    parts = ("weights in 16 bits", found.weight_bytes), ("a batch", found.batch_bytes)
    memory = [f"{name} {'not known' if n is None else decimal(n)}" for name, n in parts]
    return "\n".join(
        (
            f"images: {found.images} of {plan.num_images}, with {plan.entry.name}",
            f"disk: {decimal(found.disk_bytes)}",
            f"memory: {', '.join(memory)}",
            f"time: {'not known' if seconds is None else f'about {duration(seconds)}'}",
        )
    )


def _announcement(plan: "BuildPlan") -> str:
    from rich.filesize import decimal

    missing = plan.missing()
    if not missing:
        return f"{plan.path}: nothing to build, its images are complete"
    size = plan.sizes.image_size
    quantized = "" if plan.run is None else "quantized "
    on_disk = decimal(len(missing) * plan.image_bytes)
    return (
        f"{plan.path}: {len(missing)} images of {size}x{size} pixels, {plan.sizes.num_steps} "
        f"steps, with {quantized}{plan.entry.name}, about {on_disk} on disk"
    )

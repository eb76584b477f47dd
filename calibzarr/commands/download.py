"""``calibzarr download``."""

import click

from calibzarr.commands.command import command
from calibzarr.commands.common import hint, tell
from calibzarr.errors import Call


@command("download")
@click.argument("model")
def download_command(model: str) -> None:
    """Fetch what MODEL needs and this machine lacks.

    MODEL is a name that 'calibzarr models' lists, or a repository of the Hugging Face Hub that has
    one file of weights for one of them. What is fetched in part is gone on with.

    \b
    calibzarr download sd3-medium
    calibzarr download argmaxinc/mlx-FLUX.1-schnell-4bit-quantized
    """
    from calibzarr.models import registry

    registry.download(model)
    tell(f"{model}: all of its files are on this machine")
    hint("go on with: ", Call("build", (), {"model": model, "prompts": ...}))

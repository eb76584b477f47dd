"""Train the embedded model from nothing: ``python scripts/train_tiny.py --directory DIRECTORY``.

Five stages, each from fixed seeds, each going on from its checkpoint in DIRECTORY after a kill:

1. the text encoders' weights are drawn at random, and stay so;
2. the autoencoder learns to reproduce drawn pictures (``training/autoencoder.py``);
3. its decoder alone learns on, with more small shapes;
4. pictures of known captions are drawn and encoded once;
5. the transformer learns rectified flow on them (``training/transformer.py``).

Then the weights are written to ``calibzarr/models/tiny.safetensors`` in float16; the registry
holds the checksum that is printed. ``scripts/check_tiny.py`` measures the pictures. The recipe,
figures and times are in ``calibzarr/models/README.md``.

On Linux this starts itself anew with OpenBLAS in the place of MLX's plain BLAS where there is
one (Debian and Ubuntu: ``apt install libopenblas0-pthread``), 5 to 8 times faster.
"""

import ctypes.util
import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import click

_STARTED = "CALIBZARR_TRAINING_STARTED"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where checkpoints are; the same command goes on from them.",
)
@click.option(
    "--weights",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the weights go; default: into the package.",
)
@click.option("--autoencoder-steps", type=click.IntRange(1), help="Fewer, to try it out.")
@click.option("--transformer-steps", type=click.IntRange(1), help="Fewer, to try it out.")
@click.option("--pictures", type=click.IntRange(1), help="Fewer, to try it out.")
def main(
    directory: Path,
    weights: Path | None,
    autoencoder_steps: int | None,
    transformer_steps: int | None,
    pictures: int | None,
) -> None:
    """Train the embedded model's weights from nothing."""
    from training import stages
    from training.autoencoder import DECODER
    from training.autoencoder import Settings as AutoencoderSettings
    from training.transformer import Settings as TransformerSettings

    from calibzarr.models import tiny

    autoencoder, decoder, transformer = AutoencoderSettings(), DECODER, TransformerSettings()
    if autoencoder_steps:
        autoencoder = replace(autoencoder, steps=autoencoder_steps)
        decoder = replace(decoder, steps=autoencoder_steps)
    if transformer_steps:
        transformer = replace(transformer, steps=transformer_steps)
    weights = weights or tiny.WEIGHTS
    try:
        stages.train(
            directory,
            weights,
            autoencoder,
            decoder,
            transformer,
            pictures or stages.PICTURES,
            click.echo,
        )
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{weights}: SHA-256 {hashlib.sha256(weights.read_bytes()).hexdigest()}")


def start_with_fast_libraries() -> None:
    """Start this program again with what is read at a start: OpenBLAS, and a heap that is kept.

    MLX asks for the memory of every array anew; the C library would give it back to the system
    each time.
    """
    if sys.platform != "linux" or _STARTED in os.environ:
        return
    environment = {
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(10**11),
        "MALLOC_TOP_PAD_": str(2**28),
        _STARTED: "1",
    }
    library = ctypes.util.find_library("openblas")
    if library:
        environment["LD_PRELOAD"] = library
    else:
        click.echo("there is no OpenBLAS: training takes 5 to 8 times longer", err=True)
    # What the user has set stays.
    os.execve(sys.executable, [sys.executable, *sys.argv], environment | dict(os.environ))


if __name__ == "__main__":
    start_with_fast_libraries()
    main()

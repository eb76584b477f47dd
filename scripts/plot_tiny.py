"""Draw what the embedded model's activations look like, from a collected store.

``python scripts/plot_tiny.py STORE DIRECTORY`` writes ``post_gelu.png`` and ``ranges.png`` and
prints the figures that ``calibzarr/models/README.md`` quotes.
"""

from pathlib import Path

import click
from training import layers


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("store", type=click.Path(exists=True, path_type=Path))
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(store: Path, directory: Path) -> None:
    """Draw STORE's post-GELU values and its ranges by sigma into DIRECTORY."""
    dataset = layers.collected(store)
    layers.plot(dataset, directory / "post_gelu.png", directory / "ranges.png")
    for each in layers.post_gelu(dataset):
        click.echo(
            f"{each.layer}: {100 * each.negative:.0f} % negative, "
            f"from {each.value_min:.2f} to {each.value_max:.2f}"
        )
    for ratio in layers.movement(dataset)[:5]:
        click.echo(f"{ratio.layer.item()}: range changes by {ratio.item():.1f} over sigma")


if __name__ == "__main__":
    main()

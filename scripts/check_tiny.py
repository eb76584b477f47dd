"""Measure whether the embedded model's pictures show what their captions say.

``python scripts/check_tiny.py`` samples 200 captions that training never saw and looks at the
pictures: colours as medians, the shape by laying outlines over it. The same eye first looks at
drawn pictures, so that its own errors are known, then at those through the autoencoder.
"""

import json
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from PIL import Image
from training import measure

from calibzarr.models.diffusionkit import DiffusionKitModel
from calibzarr.models.tiny import WEIGHTS, TinyPipeline

TARGETS = {"colour": 0.99, "background": 0.99, "shape": 0.90}
TARGET_DECIBELS = 27.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--weights",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=WEIGHTS,
    help="Default: those in the package.",
)
@click.option("--count", type=click.IntRange(1, 840), default=200, show_default=True)
@click.option("--num-steps", type=click.IntRange(1), default=50, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@click.option(
    "--sheet", type=click.Path(dir_okay=False, path_type=Path), help="Save all pictures as one."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def main(
    weights: Path, count: int, num_steps: int, seed: int, sheet: Path | None, as_json: bool
) -> None:
    """Measure the pictures of the embedded model; exit with 1 if they miss the targets."""
    model = DiffusionKitModel("tiny", TinyPipeline(weights))
    expected = measure.held_out_scenes(count, seed)
    drawn = measure.true_pictures(expected, seed)
    decoded = measure.round_trip(model, drawn)
    captions = [scene.caption for scene in expected]
    generated = measure.generate(
        model, captions, num_steps, seed, say=lambda line: click.echo(line, err=True)
    )
    results = {
        "drawn": asdict(measure.shown(expected, drawn)),
        "through the autoencoder": asdict(measure.shown(expected, decoded)),
        "generated": asdict(measure.shown(expected, generated)),
    }
    psnr = measure.peak_signal_to_noise(drawn, decoded)
    if sheet:
        _save_sheet(sheet, generated)
    met = psnr >= TARGET_DECIBELS and all(
        results["generated"][word] >= target for word, target in TARGETS.items()
    )
    if as_json:
        click.echo(json.dumps({"psnr_db": psnr, "met": met, **results}))
    else:
        for name, parts in results.items():
            words = ", ".join(f"{word} {100 * part:.1f} %" for word, part in parts.items())
            click.echo(f"{name}: {words}")
        click.echo(f"autoencoder: {psnr:.2f} dB")
        wanted = ", ".join(f"{word} {100 * part:.0f} %" for word, part in TARGETS.items())
        click.echo(f"targets ({wanted}, {TARGET_DECIBELS:g} dB) are {'met' if met else 'NOT met'}")
    if not met:
        raise SystemExit(1)


def _save_sheet(path: Path, pictures: np.ndarray, columns: int = 20) -> None:
    missing = -len(pictures) % columns
    padded = np.concatenate([pictures, np.zeros((missing, *pictures.shape[1:]), np.uint8)])
    rows = padded.reshape(-1, columns, *pictures.shape[1:])
    Image.fromarray(np.concatenate(np.concatenate(rows.swapaxes(0, 1), 2), 0)).save(path)


if __name__ == "__main__":
    main()

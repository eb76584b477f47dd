"""Draw images of the embedded model beside the same ones with uniform bits and with a budget.

Statistics and sensitivities are of other captions and seeds; the budget costs what the uniform
bits do.
"""

from pathlib import Path

import click
import numpy as np

import calibzarr
from calibzarr.export.config import export_config
from calibzarr.models import registry
from calibzarr.plots.images import side_by_side

_CALIBRATED, _DRAWN = 8, 4  # images


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--bits", default=4, show_default=True, help="Of every weight and activation.")
@click.option("--steps", default=50, show_default=True, help="Of every image.")
def main(directory: Path, bits: int, steps: int) -> None:
    """Make three stores in DIRECTORY, and DIRECTORY/bits.png of them."""
    directory.mkdir(parents=True, exist_ok=True)
    calibration, reference = directory / "calibration.zarr", directory / "reference.zarr"
    if not calibration.exists():
        calibzarr.build(calibration, num_images=_CALIBRATED, num_steps=steps, progress=True)
        calibzarr.collect(calibration, num_images=_CALIBRATED, progress=True)
        calibzarr.sensitivity(calibration, progress=True)
    prompts = directory / "prompts.txt"
    captions = registry.find("tiny").prompts().prompts[_CALIBRATED : _CALIBRATED + _DRAWN]
    prompts.write_text("".join(f"{caption}\n" for caption in captions), encoding="utf-8")
    calibzarr.build(
        reference,
        prompts=prompts,
        seed=1000,
        num_steps=steps,
        resume=reference.exists(),
        progress=True,
    )
    rows = {"full precision": calibzarr.open_store(reference)}
    costs = {"weight_bits": float(bits), "activation_bits": float(bits)}
    for method in ("uniform", "budget"):
        file, run = directory / f"{method}.json", directory / f"{method}.zarr"
        predicted = export_config(calibration, file, method=method, force=True, **costs).prediction
        costs = {name: predicted[name] for name in costs}
        calibzarr.build(run, reference=reference, quantized=file, progress=True)
        dataset = calibzarr.open_store(run)
        error = (dataset.decoded.astype(float) - rows["full precision"].decoded) ** 2
        measured = float((-10 * np.log10(error.mean(["row", "column", "rgb"]) / 255**2)).mean())
        rows[
            f"{method}: weights of {costs['weight_bits']:.2f} bits, activations of "
            f"{costs['activation_bits']:.2f}; PSNR {measured:.1f} dB"
        ] = dataset
        click.echo(
            f"{method}: PSNR {measured:.2f} dB, {predicted['picture_psnr_db']:.2f} predicted"
        )
    sheet = directory / "bits.png"
    side_by_side(rows, range(_DRAWN)).save(sheet, optimize=True)
    click.echo(f"{sheet}")


if __name__ == "__main__":
    main()

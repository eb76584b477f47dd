"""What a collected store tells of a model's activations: asymmetry after GELU, ranges by sigma."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr


@dataclass(frozen=True)
class PostGelu:
    """Values that enter the second layer of an MLP, over all collected steps.

    TaQ-DiT (arXiv 2411.14172) describes them: most are negative and crowd in a narrow range, the
    positive ones are few and reach far.

    Attributes:
        layer: its name.
        negative: part of the values that are below zero, from 0 to 1.
        value_min: the least.
        value_max: the greatest.
    """

    layer: str
    negative: float
    value_min: float
    value_max: float


def collected(path: Path) -> xr.Dataset:
    """The statistics of a store at the steps that were collected, in memory."""
    dataset = xr.open_zarr(path, chunks=None)
    names = ("histogram", "value_min", "value_max", "sigma", "kind", "bin_low", "bin_high")
    return dataset[list(names)].isel(step=dataset.collected.values).load()


def post_gelu(dataset: xr.Dataset) -> list[PostGelu]:
    """Every layer that reads GELU's output, the most uneven range first."""
    # Not the embedders, which have SiLU.
    chosen = dataset.isel(layer=_in_blocks(dataset) & (dataset.kind == "mlp.fc2").values)
    counts = chosen.histogram.sum("step")
    below = counts.isel(bin=(chosen.bin_high <= 0).values).sum("bin") / counts.sum("bin")
    low, high = chosen.value_min.min("step").values, chosen.value_max.max("step").values
    found = [
        PostGelu(str(name), float(part), float(least), float(most))
        for name, part, least, most in zip(
            chosen.layer.values, below.values, low, high, strict=True
        )
    ]
    return sorted(found, key=lambda each: each.value_max / each.value_min)


def movement(dataset: xr.Dataset) -> xr.DataArray:
    """How many times its least range each layer's range is at most, over sigma; largest first.

    Only layers within the transformer's blocks: the others see the timestep or the text alone,
    or the noise itself.
    """
    # adaLN's input is the timestep's embedding; it says nothing of the image.
    inside = _in_blocks(dataset) & (dataset.kind != "adaLN_modulation").values
    ranges = (dataset.value_max - dataset.value_min).isel(layer=inside)
    ratio = ranges.max("step") / ranges.min("step")
    ratio = ratio.where(np.isfinite(ratio), drop=True)
    return ratio.sortby(ratio, ascending=False)


def _in_blocks(dataset: xr.Dataset) -> np.ndarray:
    return np.array([str(name).startswith("mm_block") for name in dataset.layer.values])


def plot(dataset: xr.Dataset, post_gelu_file: Path, movement_file: Path) -> None:
    """Draw the most uneven post-GELU layer, and the layers whose range moves most with sigma.

    Raises:
        OSError: if a picture cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    layer = post_gelu(dataset)[0]
    counts = dataset.histogram.sel(layer=layer.layer).sum("step").values
    low, high = dataset.bin_low.values, dataset.bin_high.values
    edges = np.linspace(layer.value_min, layer.value_max, 161)
    finite = np.isfinite(low) & np.isfinite(high) & (counts > 0)
    middle = np.clip((low[finite] + high[finite]) / 2, edges[0], edges[-1])
    part, _ = np.histogram(middle, edges, weights=counts[finite] / counts.sum())
    axes.stairs(part, edges, fill=True)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(yscale="log", xlabel="value", ylabel="part of the values", title=layer.layer)
    figure.savefig(post_gelu_file, dpi=100)

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for name in movement(dataset).layer.values[:3]:
        chosen = dataset.sel(layer=name)
        (line,) = axes.plot(chosen.sigma, chosen.value_max, label=str(name))
        axes.plot(chosen.sigma, chosen.value_min, color=line.get_color())
    axes.invert_xaxis()  # sampling goes from noise to picture
    axes.set(xlabel="sigma", ylabel="least and greatest value")
    axes.legend(fontsize="small")
    figure.savefig(movement_file, dpi=100)

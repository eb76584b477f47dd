"""Quantized checkpoints of any model, rounded to the nearest levels, all settings in turn."""

from itertools import cycle, product

from calibzarr.export import checkpoint
from calibzarr.export.checkpoint import Choice
from calibzarr.quantization.quantizers import MLX_BITS, MLX_GROUPS, Quantizer


def choice_of(model, settings=None, kept=()):
    """The next setting that fits for each linear layer."""
    layers = tuple(layer for layer in model.layers() if layer.role == "input")
    remaining = cycle(settings or product(MLX_GROUPS, MLX_BITS))
    quantizers = []
    for layer in layers:
        group_size, bits = next(remaining)
        quantizer = Quantizer("weight", f"mlx-{group_size}", bits)
        kept_here = layer.name in kept or not quantizer.fits(layer.features)
        quantizers.append(None if kept_here else quantizer)
    return Choice(layers, tuple(quantizers))


def write(path, model, choice, config=None, t5=None):
    """A checkpoint whose weights are rounded; with T5, where that has a number of bits."""
    config = config or {"model": model.name}
    quantizers = dict(choice.quantized())

    def levels(layer):
        quantizer = quantizers[layer]
        return model.levels_of_weight(layer, quantizer.group_size, quantizer.bits)[0]

    encoder = t5 and checkpoint.uniform(model.t5(), t5)
    checkpoint.write(path, model, choice, levels, config, lambda _: "a card\n", t5=encoder)
    return path

"""The layers of DiffusionKit's MMDiT: what they are called and where they stand."""

from collections.abc import Iterator

import mlx.nn as nn

from calibzarr.models.base import Layer

# DiffusionKit wraps some linear layers in a Sequential; these are the places that matter.
_KINDS = {
    "adaLN_modulation.layers.1": "adaLN_modulation",
    "mlp.layers.0": "mlp.fc1",
    "mlp.layers.2": "mlp.fc2",
}


def observable_layers(mmdit: nn.Module) -> tuple[Layer, ...]:
    """Every linear layer's input and every block's output, in order of depth.

    The image stream's output of a block of two streams bears the block's name, the text
    stream's ``<block>.text``. The last text block gives none: nothing after it reads it.
    """
    embedders = {"t_embedder": "unified", "y_embedder": "text", "context_embedder": "text"}
    return (
        *(
            layer
            for name, stream in embedders.items()
            for layer in _linears(mmdit[name], name, name, name, stream)
        ),
        *_two_stream_blocks(mmdit),
        *_unified_blocks(mmdit),
        *_linears(mmdit.final_layer, "final_layer", "final_layer", "final_layer", "image"),
    )


def _two_stream_blocks(mmdit: nn.Module) -> Iterator[Layer]:
    hidden_size = mmdit.config.hidden_size
    for number, block in enumerate(mmdit.multimodal_transformer_blocks):
        name, path = f"mm_block_{number}", f"multimodal_transformer_blocks.{number}"
        for stream in ("image", "text"):
            part = f"{stream}_transformer_block"
            yield from _linears(block[part], f"{path}.{part}", f"{name}.{stream}", name, stream)
        yield Layer(name, path, name, "image", "block", "output", hidden_size)
        if not block.text_transformer_block.skip_post_sdpa:
            yield Layer(f"{name}.text", path, name, "text", "block", "output", hidden_size)


def _unified_blocks(mmdit: nn.Module) -> Iterator[Layer]:
    for number, block in enumerate(mmdit.get("unified_transformer_blocks", [])):
        name, path = f"unified_block_{number}", f"unified_transformer_blocks.{number}"
        part = "transformer_block"
        yield from _linears(block[part], f"{path}.{part}", name, name, "unified")
        yield Layer(name, path, name, "unified", "block", "output", mmdit.config.hidden_size)


def _linears(module: nn.Module, path: str, name: str, block: str, stream: str) -> Iterator[Layer]:
    for inner, linear in sorted(module.named_modules(), key=lambda item: item[0]):
        if isinstance(linear, nn.Linear):
            kind = _KINDS.get(inner, inner)
            yield Layer(
                name=f"{name}.{kind}" if kind else name,
                module=f"{path}.{inner}" if inner else path,
                block=block,
                stream=stream,
                kind=kind or block,
                role="input",
                features=linear.weight.shape[1],
            )

"""The layers of DiffusionKit's MMDiT: what they are called and where they stand."""

from collections.abc import Iterator

import mlx.nn as nn

from calibzarr.models.base import Layer

# DiffusionKit wraps some linear layers in a Sequential; these are the indices that matter.
_KINDS = {
    "adaLN_modulation.layers.1": "adaLN_modulation",
    "mlp.layers.0": "mlp.fc1",
    "mlp.layers.2": "mlp.fc2",
}
_FOLLOWS = {"adaLN_modulation.layers.1": "silu", "mlp.layers.2": "silu", "mlp.fc2": "gelu"}
_PROJECTIONS = ("attn.k_proj", "attn.q_proj", "attn.v_proj")  # of one array; in order of the tree
_CACHED = ("y_embedder", "t_embedder", "guidance_in")  # with every adaLN_modulation
_TEXT_EMBEDDERS = ("y_embedder", "context_embedder", "guidance_in")  # all else sees the timestep


def observable_layers(mmdit: nn.Module) -> tuple[Layer, ...]:
    """Every linear layer's input and every block's output, in order of depth.

    The image stream's output of a block of two streams bears the block's name, the text
    stream's ``<block>.text``. The last text block gives none: nothing after it reads it.
    """
    embedders = {
        "t_embedder": "unified",
        "y_embedder": "text",
        "guidance_in": "unified",  # an identity, but in FLUX.1 dev
        "context_embedder": "text",
    }
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
            branch = f"{stream}_transformer_block"
            yield from _linears(block[branch], f"{path}.{branch}", f"{name}.{stream}", name, stream)
        yield _output(name, path, name, "image", hidden_size)
        if not block.text_transformer_block.skip_post_sdpa:
            yield _output(f"{name}.text", path, name, "text", hidden_size)


def _unified_blocks(mmdit: nn.Module) -> Iterator[Layer]:
    for number, block in enumerate(mmdit.get("unified_transformer_blocks", [])):
        name, path = f"unified_block_{number}", f"unified_transformer_blocks.{number}"
        branch = "transformer_block"
        yield from _linears(block[branch], f"{path}.{branch}", name, name, "unified")
        yield _output(name, path, name, "unified", mmdit.config.hidden_size)


def _output(name: str, path: str, block: str, stream: str, features: int) -> Layer:
    return Layer(name, path, block, stream, "block", "output", features, name, name)


def _linears(module: nn.Module, path: str, name: str, block: str, stream: str) -> Iterator[Layer]:
    parallel_mlp = getattr(module, "parallel_mlp", False)
    for inner, linear in sorted(module.named_modules(), key=lambda item: item[0]):
        if isinstance(linear, nn.Linear):
            kind = _KINDS.get(inner, inner)
            full_name = f"{name}.{kind}" if kind else name
            first_projection = f"{name}.{_PROJECTIONS[0]}"
            if kind in _PROJECTIONS or (kind == "mlp.fc1" and parallel_mlp):
                input_group = first_projection
            elif kind == "adaLN_modulation" and stream == "text":  # of the same conditioning
                input_group = f"{block}.image.{kind}"
            else:
                input_group = full_name
            yield Layer(
                name=full_name,
                module=f"{path}.{inner}" if inner else path,
                block=block,
                stream=stream,
                kind=kind or block,
                role="input",
                features=linear.weight.shape[1],
                input_group=input_group,
                tied_group=first_projection if kind in _PROJECTIONS else full_name,
                follows=_FOLLOWS.get(inner, ""),
                text_only=block in _TEXT_EMBEDDERS,
                cached=block in _CACHED or kind == "adaLN_modulation",
            )

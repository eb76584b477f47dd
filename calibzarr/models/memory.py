"""Estimates of the memory that a batch takes, beside the weights."""

from typing import Any, Protocol, runtime_checkable

from rich.filesize import decimal

from calibzarr import memory
from calibzarr.errors import Option, OptionError
from calibzarr.models.base import Model
from calibzarr.models.formulas import PIXELS_PER_LATENT

_T5_TOKENS = 512  # where DiffusionKit does not know the repository
_NEIGHBOURS = 9  # values of a 3 by 3 convolution, which MLX lays out side by side on a CPU


@runtime_checkable
class SizedModel(Model, Protocol):
    """A model that tells how much memory a batch takes."""

    def batch_bytes(self, num_images: int, image_size: int, num_steps: int, *, guided: bool) -> int:
        """Estimate of the bytes that sampling images together takes beside the weights.

        Args:
            num_images: of the batch.
            image_size: in pixels.
            num_steps: model calls.
            guided: whether each call is made for negative prompts as well.
        """


def check_batch(
    model: Model,
    num_images: int,
    image_size: int,
    num_steps: int,
    *,
    guided: bool,
    remedy: str,
    times: int = 1,
) -> None:
    """Check that there is memory for a batch; a batch of one image is tried whatever is free.

    Args:
        model: that has a say in it if it is a :class:`SizedModel`.
        num_images: of the batch.
        image_size: in pixels.
        num_steps: model calls whose modulation is computed ahead.
        guided: whether each call is made for negative prompts as well.
        remedy: what to do, up to how many images fit.
        times: how many calls' memory is needed.

    Raises:
        OptionError: if there is not; says what is needed, what is free, and how many images fit.
    """
    if num_images == 1 or not isinstance(model, SizedModel):
        return

    def needed(count: int) -> int:
        return times * model.batch_bytes(count, image_size, num_steps, guided=guided)

    free = memory.available()
    if needed(num_images) > free:
        fitting = 1 + max(0, (free - needed(1)) // (needed(2) - needed(1)))
        raise OptionError(
            Option("batch_size"),
            f" {num_images} takes about {decimal(needed(num_images))} of memory, and "
            f"{decimal(free)} are free; {remedy}{fitting} or less",
        )


def batch_bytes(
    pipeline: Any, num_images: int, image_size: int, num_steps: int, *, guided: bool, on_cpu: bool
) -> int:
    """The same of a pipeline of DiffusionKit's, from its sizes.

    Counted are encoded prompts, adaLN's outputs of all calls, the arrays of one block with its
    scores of attention, the states that are kept, and the last convolutions of the decoder.
    """
    config, item_size = pipeline.mmdit.config, pipeline.activation_dtype.size
    text, latents = _text_tokens(pipeline), (image_size // PIXELS_PER_LATENT) ** 2
    tokens, hidden = latents // config.patch_size**2 + text, config.hidden_size
    modulated = 12 * config.depth_multimodal + 3 * config.depth_unified
    of_row = (
        2 * text * config.token_level_text_embed_dim
        + modulated * hidden * num_steps
        + (6 + 2 * config.mlp_ratio) * tokens * hidden
        + 2 * config.num_heads * tokens**2
    )
    of_image = (num_steps + 1) * config.vae_latent_dim * latents
    channels = 2 * pipeline.decoder.conv_out.weight.shape[-1]
    decoded = 2 * (_NEIGHBOURS if on_cpu else 1) * channels * image_size**2
    rows = num_images * (2 if guided else 1)
    return int(item_size * (rows * of_row + decoded) + 4 * num_images * of_image)


def _text_tokens(pipeline: Any) -> int:
    """Text tokens of a prompt at most."""
    from calibzarr.models.compatibility import import_diffusionkit

    kit: Any = import_diffusionkit()
    of_t5 = kit.T5_MAX_LENGTH.get(pipeline.model_version, _T5_TOKENS)
    if pipeline.mmdit.config.depth_unified:
        return int(of_t5)
    of_clip = int(pipeline.tokenizer_l.max_length)
    return of_clip + (int(of_t5) if pipeline.use_t5 else of_clip)

"""The text encoders of DiffusionKit's pipelines, of which T5 can leave memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from calibzarr.models.compatibility import metal_names


@dataclass(frozen=True)
class TextConditioning:
    """Encoded prompts: rows of all prompts, then rows of their negatives under guidance.

    Attributes:
        tokens: shape (row, token, feature).
        pooled: shape (row, feature).
        cfg_weight: weight of classifier-free guidance; 0 for none.
    """

    tokens: mx.array
    pooled: mx.array
    cfg_weight: float

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return int(self.tokens.nbytes + self.pooled.nbytes)


class TextEncoders:
    """What a model does with the text encoders of its pipeline.

    Attributes:
        pipeline: a ``DiffusionPipeline``; its T5 is None while that is out of memory.
    """

    pipeline: Any

    def encode(
        self, prompts: Sequence[str], cfg_weight: float, guidance: float | None = None
    ) -> TextConditioning:
        """Encode prompts one by one, so that a prompt's row never depends on its neighbours."""
        return self.joined([self._encode(prompt, cfg_weight, guidance) for prompt in prompts])

    def _encode(self, prompt: str, cfg_weight: float, guidance: float | None) -> TextConditioning:
        self.read_t5()
        with metal_names():
            encoded = self.pipeline.encode_text(prompt, cfg_weight)
        mx.eval(encoded)
        number = 2 if cfg_weight > 0 else 1
        tokens, pooled = (part[:number].astype(self.pipeline.activation_dtype) for part in encoded)
        if guidance is not None:
            pooled[:, -1] = guidance
        mx.eval(tokens, pooled)
        return TextConditioning(tokens, pooled, cfg_weight)

    def joined(self, conditionings: Sequence[TextConditioning]) -> TextConditioning:
        """The conditioning of several prompts, from that of each."""
        tokens, pooled = (
            mx.concatenate(
                [array[row : row + 1] for row in range(len(arrays[0])) for array in arrays]
            )
            for arrays in ([c.tokens for c in conditionings], [c.pooled for c in conditionings])
        )
        return TextConditioning(tokens, pooled, conditionings[0].cfg_weight)

    @property
    def unloads(self) -> bool:
        """Whether it has a T5 that can be read again."""
        return hasattr(self.pipeline, "t5_encoder") and hasattr(self.pipeline, "load_t5")

    def unload_text_encoder(self) -> None:
        """Free the memory of T5; what needs it reads it again."""
        self.pipeline.t5_encoder = None
        mx.clear_cache()

    def read_t5(self) -> nn.Module | None:
        """T5, read again if it was unloaded; None where the model has none."""
        if self.unloads and self.pipeline.t5_encoder is None:
            self.pipeline.t5_encoder = self.pipeline.load_t5()
        return getattr(self.pipeline, "t5_encoder", None)

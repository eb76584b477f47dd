"""Replays of model calls with observers and without, on the embedded model or a larger one."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from benchmarks import data
from benchmarks.old_collector import OldCollector
from calibzarr.collecting import collector
from calibzarr.collecting.replay import Batch
from calibzarr.models import registry
from calibzarr.models.base import Model
from calibzarr.models.diffusionkit import DiffusionKitModel, TextConditioning, kit
from calibzarr.prompts import lists as prompts
from calibzarr.statistics.histogram import BINS
from calibzarr.statistics.running import Statistics
from calibzarr.statistics.steps import key_steps

_NUM_STEPS = 50


@dataclass(frozen=True)
class Replay:
    """One image's stored states, and all that it takes to replay them.

    Attributes:
        description: of the model.
        batch: the image, with the conditioning of its prompt and of the negative one: every call
            has two rows.
        steps: to replay.
    """

    description: str
    batch: Batch
    steps: tuple[int, ...]

    @property
    def model(self) -> Model:
        """The model that made them."""
        return self.batch.model

    def bare(self) -> None:
        """Call the model at every step and look at nothing."""
        for step in self.steps:
            mx.eval(self.batch.denoised(step))

    def observed(self, statistics: Statistics) -> None:
        """Call the model at every step and add what its layers see to ``statistics``."""
        for step in self.steps:
            collector.observe_step(self.batch, step, statistics)

    def observed_the_old_way(self, *, linears: bool) -> dict[str, dict[str, float]]:
        """Call the model at every step and sample what its blocks, or all layers, see."""
        old = OldCollector(linears=linears)
        with old.hooked(self.model.pipeline.mmdit):
            self.bare()
        return old.statistics()

    def statistics(self) -> Statistics:
        """Statistics of nothing, for this model at these steps."""
        layers = self.model.layers()
        features = max(layer.features for layer in layers)
        return Statistics.empty(BINS, len(layers), self.steps, [0], features)


def of_tiny(calls: int) -> Replay:
    """Replay of the embedded model at its own image size."""
    model, entry = registry.load("tiny"), registry.find("tiny")
    *_, latent_size = entry.latent_shape(entry.image_size)
    prompt = prompts.shape_captions().prompts[0]
    conditioning = model.encode([prompt], entry.cfg_weight)
    return _replay("the embedded model", model, conditioning, latent_size, calls)


def of_mid_size(calls: int, *, small: bool = False) -> Replay:
    """Replay of a transformer like Stable Diffusion 3's with seeded weights.

    Args:
        calls: model calls.
        small: a fraction of the size, which only shows that it works.
    """
    depth, latent_size, text_tokens = (1, 8, 8) if small else (6, 32, 154)
    mx.random.seed(0)
    pipeline = kit.DiffusionPipeline.__new__(kit.DiffusionPipeline)  # no text encoders, no files
    pipeline.activation_dtype = mx.float32
    pipeline.sampler = kit.sampler.ModelSamplingDiscreteFlow(shift=3.0)
    config = kit.config.MMDiTConfig(
        num_heads=6,
        depth_multimodal=depth,
        hidden_size_override=384,
        max_latent_resolution=latent_size,
        dtype=mx.float32,
        low_memory_mode=False,
    )
    pipeline.mmdit = kit.mmdit.MMDiT(config)
    conditioning = TextConditioning(
        tokens=mx.random.normal((2, text_tokens, config.token_level_text_embed_dim)),
        pooled=mx.random.normal((2, config.pooled_text_embed_dim)),
        cfg_weight=5.0,
    )
    mx.eval(pipeline.mmdit.parameters(), conditioning.tokens, conditioning.pooled)
    model = DiffusionKitModel("mid-size", pipeline)
    image_tokens = (latent_size // config.patch_size) ** 2
    description = (
        f"depth {depth}, width {config.hidden_size}, {image_tokens} image and {text_tokens} text "
        f"tokens, 2 rows"
    )
    return _replay(description, model, conditioning, latent_size, calls)


def _replay(
    description: str,
    model: Model,
    conditioning: Any,
    latent_size: int,
    calls: int,
) -> Replay:
    states = data.trajectory(0, latent_size, _NUM_STEPS)
    batch = Batch(model, model.schedule(_NUM_STEPS), conditioning, (0,), states[None])
    return Replay(description, batch, key_steps(_NUM_STEPS)[:calls])

"""What DiffusionKit's transformer computes ahead of its calls, without a trace in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from calibzarr.models.compatibility import import_diffusionkit

kit: Any = import_diffusionkit()

CACHE = "_modulation_params"  # of each module that adaLN modulates


@contextmanager
def cached_modulation(mmdit: nn.Module, pooled: mx.array, timesteps: mx.array) -> Iterator[None]:
    """Compute adaLN's outputs for every timestep; afterwards the model is as it was before.

    DiffusionKit empties the adaLN weights to save memory and reads them from disk again.
    Here references to the arrays are kept and put back, also after a failure.

    Args:
        mmdit: DiffusionKit's transformer.
        pooled: pooled text embeddings, shape (row, feature).
        timesteps: shape (step,), in the activation dtype.
    """
    with unchanged_parameters(mmdit):
        mmdit.cache_modulation_params(pooled, timesteps)
        yield


@contextmanager
def unchanged_parameters(mmdit: nn.Module) -> Iterator[None]:
    """Put the arrays of all parameters back when the context ends, and leave no cache."""
    clear_caches(mmdit)  # DiffusionKit's own sampler may have left some
    kept = mmdit.parameters()  # the arrays themselves, not copies
    try:
        yield
    finally:
        clear_caches(mmdit)
        mmdit.update(kept)  # also the biases that FLUX's blocks set to zero as they run


def clear_caches(mmdit: nn.Module) -> None:
    """Remove what earlier passes left in the transformer."""
    # The list of what to offload holds adaLN's layers a second time, as a branch of the tree.
    mmdit.pop("to_offload", None)
    mmdit.clear_modulation_params_cache()
    if isinstance(mmdit.pre_sdpa_rope, kit.mmdit.RoPE):
        mmdit.pre_sdpa_rope.rope_embeddings = None

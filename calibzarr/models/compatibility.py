"""What DiffusionKit 0.5.2 needs to run on recent MLX, on Linux, and without torch.

Each difference is bridged within a context; nothing of MLX or DiffusionKit stays changed.
"""

import importlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

logger = logging.getLogger(__name__)


def _stand_in(name: str, **attributes: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(attributes)
    return module


def import_diffusionkit() -> ModuleType:
    """Import ``diffusionkit.mlx`` without torch, coremltools and argmaxtools.

    Its MLX path takes a logger, two empty mixins and one conversion from modules that import
    those; stand-ins take their place during the import.

    Raises:
        ModuleNotFoundError: if DiffusionKit is not installed; the message tells how.
    """
    if "diffusionkit.mlx" in sys.modules:
        return sys.modules["diffusionkit.mlx"]
    stand_ins = [
        _stand_in("argmaxtools"),
        _stand_in("argmaxtools.utils", get_logger=logging.getLogger),
        _stand_in(
            "argmaxtools.test_utils",
            AppleSiliconContextMixin=type("AppleSiliconContextMixin", (), {}),
            InferenceContextSpec=type("InferenceContextSpec", (), {}),
        ),
        _stand_in("diffusionkit.utils", bytes2gigabytes=lambda count: count / 1e9),
    ]
    # transformers remarks at import that there is no torch; nothing here wants one.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    added = [module.__name__ for module in stand_ins if module.__name__ not in sys.modules]
    sys.modules.update({m.__name__: m for m in stand_ins if m.__name__ in added})
    try:
        return importlib.import_module("diffusionkit.mlx")
    except ModuleNotFoundError as error:
        if error.name != "diffusionkit":
            raise
        raise ModuleNotFoundError(
            "DiffusionKit is not installed; install it with: "
            "pip install --no-deps diffusionkit==0.5.2",
            name="diffusionkit",
        ) from None
    finally:
        for name in added:
            del sys.modules[name]


@contextmanager
def lenient_updates() -> Iterator[None]:
    """Let ``nn.Module.update`` pass over parameters that the module does not have.

    Checkpoints hold position ids and tied embeddings, which DiffusionKit's loaders hand to
    ``update``; MLX ignored them once, and raises now. The opposite, a parameter of the module
    that the checkpoint lacks, would keep its random value: here it raises.

    Raises:
        ValueError: from ``update``, naming parameters that the checkpoint lacks.
    """
    original = nn.Module.update

    def update(
        module: nn.Module,
        parameters: dict[str, Any],
        strict: bool = True,  # noqa: FBT001, FBT002 - as MLX has it
    ) -> nn.Module:
        if strict:  # a loader; load_weights checks by itself and passes False
            known = {name for name, _ in tree_flatten(module.parameters())}
            given = {name for name, _ in tree_flatten(parameters)}
            if known - given:
                raise ValueError(
                    f"the checkpoint lacks {len(known - given)} parameters of "
                    f"{type(module).__name__}, the first is {min(known - given)}"
                )
            if given - known:
                logger.info(
                    "%s has no use for: %s", type(module).__name__, ", ".join(sorted(given - known))
                )
        return original(module, parameters, strict=False)

    nn.Module.update = update
    try:
        yield
    finally:
        nn.Module.update = original


@contextmanager
def offline() -> Iterator[None]:
    """Let huggingface_hub ask nobody: without a network each file takes it half a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def metal_names() -> Iterator[None]:
    """Let DiffusionKit use names of MLX's memory that are deprecated, gone, or Apple's alone."""
    replaced = {
        "device_info": lambda: {"memory_size": mx.get_memory_limit(), **mx.device_info()},
        "get_active_memory": mx.get_active_memory,
        "get_peak_memory": mx.get_peak_memory,
        "reset_peak_memory": mx.reset_peak_memory,
        "set_memory_limit": mx.set_memory_limit,
    }
    before = {name: vars(mx.metal)[name] for name in replaced if name in vars(mx.metal)}
    try:
        vars(mx.metal).update(replaced)
        yield
    finally:
        for name in replaced:
            del vars(mx.metal)[name]
        vars(mx.metal).update(before)

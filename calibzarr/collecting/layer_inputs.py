"""What chosen layers get when a store's states are replayed, for quantizers of any kind."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from calibzarr.collecting.plan import spread
from calibzarr.collecting.replay import Replay, check_model
from calibzarr.errors import Call, Option, OptionError, StoreError, at_least, check_known
from calibzarr.models import registry
from calibzarr.models.base import DifferentiableModel, Layer, Model
from calibzarr.statistics.steps import key_steps
from calibzarr.storage import manifest, store
from calibzarr.storage.manifest import Root, read_root, refuse_runs


@dataclass(frozen=True)
class LayerInputs:
    """What layers that share an input get in one call of the model.

    Attributes:
        layers: names of those that were chosen.
        images: indices in the store of the batch's images.
        step: index of the call.
        values: shape (row, token, feature), float32, activation units; rows of all images with
            their prompts, then of all with the negative prompt under guidance.
    """

    layers: tuple[str, ...]
    images: tuple[int, ...]
    step: int
    values: np.ndarray


def layer_inputs(
    path: str | Path,
    layers: str | Sequence[str],
    *,
    images: int | Sequence[int] = 32,
    steps: str | Sequence[int] = "key",
    batch_size: int = 1,
) -> Iterator[LayerInputs]:
    """Replay stored states, and give what chosen linear layers get, batch by batch.

    Memory holds the chosen layers' inputs of one call.

    Args:
        path: directory of a store.
        layers: names, or patterns such as ``*.mlp.fc2``.
        images: how many of the complete ones, evenly spread, or which.
        steps: ``key`` for the key steps without the final state, ``all``, or indices of calls.
        batch_size: images of one call.

    Yields:
        Arrays in the order of images, steps and depth.

    Raises:
        OptionError: if a value is not allowed.
        StoreError: if the store cannot be used, or its model's weights have changed.
    """
    at_least("batch_size", batch_size, 1)
    root = read_root(Path(path))
    manifest.check_known(root.path, root.attributes)
    refuse_runs(root.path, root.attributes, "layer_inputs")
    chosen_images = choose_images(root, images)
    chosen_steps = choose_calls(steps, root.attributes["num_steps"])
    model = load_replayable(root)
    known = model.layers()
    indices = matching(known, (layers,) if isinstance(layers, str) else layers)
    replay = Replay.of(root, model, chosen_images)

    def generate() -> Iterator[LayerInputs]:
        for start in range(0, len(chosen_images), batch_size):
            batch = replay.batch(chosen_images[start : start + batch_size])
            for step in chosen_steps:
                for readers, values in batch.inputs(step, indices):
                    names = tuple(known[reader].name for reader in readers)
                    yield LayerInputs(names, batch.images, step, values)

    return generate()


def choose_images(root: Root, images: int | Sequence[int]) -> tuple[int, ...]:
    """Complete images: that many, evenly spread, or those that are named.

    Raises:
        OptionError: if there are no such images.
        StoreError: if none is complete.
    """
    complete = np.flatnonzero(store.completed(root.path, root.num_images))
    if not len(complete):
        raise StoreError(
            f"{root.path} has no complete image to replay; build some with: ",
            Call("build", (root.path,), {"resume": True}),
        )
    if isinstance(images, int):
        at_least("images", images, 1)
        return tuple(spread(complete, np.array([], int), images).tolist())
    if lacking := [image for image in images if image not in complete]:
        raise OptionError(
            Option("images"), f" must be complete images of {root.path}, got {lacking[0]}"
        )
    if not len(images):
        raise OptionError(Option("images"), " must name at least one image, got none")
    return tuple(int(image) for image in images)


def choose_calls(steps: str | Sequence[int], num_steps: int) -> tuple[int, ...]:
    """Indices of calls, increasing.

    Raises:
        OptionError: if there are no such calls.
    """
    if isinstance(steps, str):
        if steps not in ("key", "all"):
            raise OptionError(
                Option("steps"), f" must be key, all, or indices of calls, got {steps!r}"
            )
        calls = key_steps(num_steps) if steps == "key" else range(num_steps)
        return tuple(int(step) for step in calls if step < num_steps)
    for step in steps:
        if not 0 <= step < num_steps:
            raise OptionError(
                Option("steps"), f" must be calls from 0 to {num_steps - 1}, got {step}"
            )
    if not len(steps):
        raise OptionError(Option("steps"), " must name at least one call, got none")
    return tuple(sorted({int(step) for step in steps}))


def load_replayable(root: Root) -> DifferentiableModel:
    """Load the model of a store, whose layers' inputs can be had.

    Raises:
        StoreError: if they cannot, or its weights are others than the store was built with.
    """
    model: Model = registry.load(root.attributes["model"])
    if not isinstance(model, DifferentiableModel):
        raise StoreError(f"{model.name} does not give the inputs of its layers")
    check_model(root, model)
    return model


def matching(layers: Sequence[Layer], patterns: Sequence[str]) -> tuple[int, ...]:
    """Indices of the linear layers that patterns name, in order of depth.

    Raises:
        OptionError: if a pattern names none.
    """
    linear = {index: layer.name for index, layer in enumerate(layers) if layer.role == "input"}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in linear.values()):
            check_known("linear layer", pattern, list(linear.values()))
    return tuple(
        index
        for index, name in linear.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    )

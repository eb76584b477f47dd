"""Calling a store's model again on stored states: what every measurement of a model begins with."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from calibzarr.errors import StoreError, disk_full_named
from calibzarr.models.base import (
    Array,
    CachingModel,
    Conditioning,
    DifferentiableModel,
    Layer,
    Model,
    Receive,
    ReceiveStep,
    Schedule,
)
from calibzarr.models.memory import check_batch
from calibzarr.models.text import tokens
from calibzarr.models.text.ahead import Encoder
from calibzarr.statistics.histogram import LogBins
from calibzarr.statistics.reduction import Reduction
from calibzarr.storage import durable, reading, schema, store
from calibzarr.storage.manifest import Root

_SIGMA_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Batch:
    """Images that are replayed together.

    Attributes:
        model: that made them.
        schedule: of their sampling.
        conditioning: of their prompts.
        images: indices in the store.
        latents: stored states, shape (image, step, channel, height, width).
    """

    model: Model
    schedule: Schedule
    conditioning: Conditioning
    images: tuple[int, ...]
    latents: np.ndarray

    def denoised(self, step: int) -> Array:
        """Call the model once on a step's states; lazy where the model is, and in its layout."""
        with self.model.denoiser(self.conditioning, self.schedule, steps=[step]) as denoise:
            return denoise(self.model.from_numpy(self.latents[:, step]), step)

    def inputs(
        self, step: int, layers: Sequence[int]
    ) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        """What linear layers get in one call on a step's states.

        Args:
            step: index of the states.
            layers: indices of the layers.

        Yields:
            See :meth:`calibzarr.models.base.DifferentiableModel.inputs`.
        """
        assert isinstance(self.model, DifferentiableModel)
        latents = self.model.from_numpy(self.latents[:, step])
        yield from self.model.inputs(latents, self.conditioning, self.schedule, step, layers)

    def observe(self, step: int, bins: LogBins, receive: Receive) -> None:
        """Call the model once on the states of a step, and reduce what its layers see.

        Args:
            step: index of the states.
            bins: of the histograms.
            receive: takes the reductions; see :meth:`calibzarr.models.base.Model.observing`.

        Raises:
            RuntimeError: if layers share values otherwise than their ``input_group`` says.
        """
        checked = _of_whole_groups(self.model.layers(), receive)
        with self.model.observing(len(self.images), bins, checked):
            self.denoised(step)

    def observe_cached(self, steps: Sequence[int], bins: LogBins, receive: ReceiveStep) -> None:
        """Reduce what the layers of :func:`cached_layers` see, without a call of the model.

        Args:
            steps: indices of calls.
            bins: of the histograms.
            receive: takes the reductions; see
                :meth:`calibzarr.models.base.CachingModel.observe_cached`.

        Raises:
            RuntimeError: if layers share values otherwise than their ``input_group`` says.
        """
        assert isinstance(self.model, CachingModel)
        layers = self.model.layers()

        def checked(step: int, indices: Sequence[int], reduction: Reduction) -> None:
            _of_whole_groups(layers, lambda *observed: receive(step, *observed))(indices, reduction)

        self.model.observe_cached(
            self.conditioning, self.schedule, steps, len(self.images), bins, checked
        )


def cached_layers(model: Model) -> tuple[int, ...]:
    """Indices of the layers that can be observed at every call without one; none in many a model.

    What depends on the text alone is the same at every step, and need not be.
    """
    if not isinstance(model, CachingModel):
        return ()
    return tuple(
        index for index, layer in enumerate(model.layers()) if layer.cached and not layer.text_only
    )


def _of_whole_groups(layers: Sequence[Layer], receive: Receive) -> Receive:
    """What passes reductions on if they are of all layers of an input group, whatever the model."""
    members: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        members.setdefault(layer.input_group, []).append(index)

    def checked(indices: Sequence[int], reduction: Reduction) -> None:
        group = layers[indices[0]].input_group
        if sorted(indices) != members[group]:
            observed, told = (
                ", ".join(layers[index].name for index in sorted(several))
                for several in (indices, members[group])
            )
            raise RuntimeError(
                f"values were observed of {observed}, but the layers of the input_group {group} "
                f"are {told}"
            )
        receive(indices, reduction)

    return checked


@dataclass(frozen=True)
class Replay:
    """A store's trajectories with the model that made them.

    Attributes:
        model: that made them.
        schedule: of the sampling.
        prompts: of all images.
        encode: encodes prompts of a batch, with the guidance of the sampling.
        latents: stored states by (image, step, channel, height, width), read when they are used.
    """

    model: Model
    schedule: Schedule
    prompts: Sequence[str]
    encode: Encoder
    latents: xr.DataArray

    @classmethod
    def of(
        cls,
        root: Root,
        model: Model,
        images: Sequence[int] = (),
        proceed: Callable[[], bool] = lambda: True,
    ) -> "Replay":
        """Open a store's states for its model.

        Args:
            root: of the store.
            model: that made it.
            images: that will be replayed, in order; others can be, at a cost.
            proceed: whether to go on encoding prompts that nobody waits for.

        Raises:
            StoreError: if its prompts are damaged.
        """
        attributes, prompts = root.attributes, store.stored_prompts(root)[0]
        settings = attributes["cfg_weight"], attributes.get(schema.GUIDANCE)
        return cls(
            model=model,
            schedule=model.schedule(attributes["num_steps"]),
            prompts=prompts,
            encode=Encoder(model, *settings, [prompts[i] for i in images], proceed=proceed),
            latents=reading.open_store(root).latents,
        )

    def batch(self, images: Sequence[int]) -> Batch:
        """Read the states of some images, and encode their prompts."""
        prompts = [self.prompts[image] for image in images]
        return Batch(
            model=self.model,
            schedule=self.schedule,
            conditioning=self.encode(prompts),
            images=tuple(images),
            latents=self.latents.isel(image=list(images)).values,
        )


@contextmanager
def adding_alone(path: Path, *, stays: str, busy: str) -> Iterator[None]:
    """Hold, within a context, the lock of what replays a store's states and adds to it.

    Args:
        path: directory of the store.
        stays: what is left when the disk is full, and what to do then.
        busy: what the error says if another process is at work.

    Raises:
        BlockingIOError: if another process is at work.
        DiskFullError: if the disk is full.
    """
    try:
        with disk_full_named(lambda: stays), durable.locked(path / schema.LATENTS.name, wait=False):
            yield
    except BlockingIOError:
        raise BlockingIOError(busy) from None


def check_memory(root: Root, model: Model, num_images: int, *, times: int = 1) -> None:
    """Check that there is memory for a batch of a store's images.

    Args:
        root: of the store.
        model: that is called.
        num_images: of the batch.
        times: how many calls' memory is needed.

    Raises:
        OptionError: if there is not, with what is needed and what is free.
    """
    check_batch(
        model,
        num_images,
        root.attributes["image_size"],
        root.attributes["num_steps"],
        guided=root.attributes["cfg_weight"] > 0,
        remedy="use ",
        times=times,
    )


def check_model(root: Root, model: Model) -> str | None:
    """Check that a model is the one that made a store's states.

    Where the fingerprint is not known, its latents and its schedule must at least be the same,
    and what was collected before must be of the same weights.

    Returns:
        What the user should know of it, or None.

    Raises:
        StoreError: if it is another one, or now makes other tokens of the prompts.
    """
    path, manifest = root.path, root.attributes
    known = manifest.get("model_fingerprint")
    before = (manifest.get(schema.ACTIVATIONS) or {}).get("model_fingerprint")
    expected = known or before
    if expected is not None and model.fingerprint != expected:
        did = "was built" if known else "has statistics that were collected"
        raise StoreError(
            f"{path} {did} with weights of fingerprint {expected}, but {model.name} now has "
            f"{model.fingerprint}; put the old weights back, or build another store"
        )
    tokens.check(path, manifest, store.stored_prompts(root)[0], model)
    if known is not None:
        return None
    differs = _difference(root, model)
    if differs:
        raise StoreError(
            f"{path} was imported as of {model.name}, but has other {differs} than that model"
        )
    return (
        f"{path} was imported: whether {model.name} has the weights that made its states is not "
        f"known"
    )


def _difference(root: Root, model: Model) -> str | None:
    """In what a store's states are not as a model makes them, in words."""
    shape = tuple(root.arrays[schema.LATENTS.name]["shape"][2:])
    if shape != model.latent_shape(root.attributes["image_size"]):
        return "latents"
    sigma = np.asarray(store.array(store.open_group(root, mode="r"), schema.SIGMA.name)[:])
    schedule = model.schedule(root.attributes["num_steps"])
    same = np.allclose(sigma, schedule.sigma, rtol=0, atol=_SIGMA_TOLERANCE)
    return None if same else "noise levels"

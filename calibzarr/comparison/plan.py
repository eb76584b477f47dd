"""What a comparison will compare: opened, and checked, before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibzarr.errors import Option, OptionError, StoreError
from calibzarr.storage import schema, store
from calibzarr.storage.manifest import Root, fingerprint, read_root

_SIGMA_TOLERANCE = 1e-5
_EQUAL = ("num_steps", "cfg_weight", schema.GUIDANCE, "image_size")


@dataclass(frozen=True)
class ComparisonPlan:
    """Stores that can be compared, and the images to compare.

    Attributes:
        reference: what the others are compared with.
        runs: the others.
        images: indices of those that are complete in all of them.
        prompts: of those images.
        seeds: likewise.
        sigma: noise level of each state.
    """

    reference: Root
    runs: tuple[Root, ...]
    images: tuple[int, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    sigma: np.ndarray


def plan(reference: str | Path, runs: str | Path | Sequence[str | Path]) -> ComparisonPlan:
    """Open stores and check that they can be compared.

    Args:
        reference: directory of a store.
        runs: directories of others of the same prompts and seeds, or of one.

    Raises:
        OptionError: if no run is named.
        StoreError: if a store cannot be used, has other prompts, seeds, steps, guidance or sizes
            than the reference, or is a run of another reference; or no image is complete in all.
        OSError: if one cannot be read.
    """
    paths = [runs] if isinstance(runs, str | Path) else list(runs)
    if not paths:
        raise OptionError(Option("runs"), " must name at least one store, got none")
    root = read_root(Path(reference))
    opened = tuple(read_root(Path(path)) for path in paths)
    prompts, seeds = store.stored_prompts(root)
    complete = store.completed(root.path, len(prompts))
    for run in opened:
        _check(root, run, prompts, seeds)
        in_run = store.completed(run.path, run.num_images)[: len(complete)]
        complete &= np.pad(in_run, (0, len(complete) - len(in_run)))
    images = tuple(np.flatnonzero(complete).tolist())
    if not images:
        names = ", ".join(str(run.path) for run in opened)
        raise StoreError(f"no image is complete in all of {root.path}, {names}; build some first")
    return ComparisonPlan(
        reference=root,
        runs=opened,
        images=images,
        prompts=tuple(prompts[image] for image in images),
        seeds=tuple(seeds[image] for image in images),
        sigma=store.noise_levels(root),
    )


def _check(reference: Root, run: Root, prompts: Sequence[str], seeds: Sequence[int]) -> None:
    """Check that a run differs from the reference in nothing but the model.

    Raises:
        StoreError: if not; names what differs, and both values.
    """
    for name in _EQUAL:
        pair = reference.attributes.get(name), run.attributes.get(name)
        if None not in pair and pair[0] != pair[1]:  # imported stores may not know it
            raise _differs(reference, run, name, *pair)
    shape, other = (
        tuple(root.arrays[schema.LATENTS.name]["shape"][1:]) for root in (reference, run)
    )
    if shape != other:
        words = "shape of latents (step, channel, height, width)"
        raise _differs(reference, run, words, shape, other)
    sigma, of_run = store.noise_levels(reference), store.noise_levels(run)
    step = int(np.abs(sigma - of_run).argmax())
    if not abs(sigma[step] - of_run[step]) <= _SIGMA_TOLERANCE:
        raise _differs(
            reference, run, f"sigma of step {step}", float(sigma[step]), float(of_run[step])
        )
    other_prompts, other_seeds = store.stored_prompts(run)
    for image, (ours, theirs) in enumerate(zip(prompts, other_prompts, strict=False)):
        if ours != theirs:
            raise _differs(reference, run, f"prompt of image {image}", ours, theirs)
    for image, (seed, other_seed) in enumerate(zip(seeds, other_seeds, strict=False)):
        if seed != other_seed:
            raise _differs(reference, run, f"seed of image {image}", seed, other_seed)
    _check_reference(reference, run, prompts, seeds)


def _check_reference(
    reference: Root, run: Root, prompts: Sequence[str], seeds: Sequence[int]
) -> None:
    """Check that a run is one of this reference, which may have grown since."""
    said = run.attributes.get(schema.REFERENCE)
    if said is None or run.path.resolve() == reference.path.resolve():
        return
    count = run.num_images
    if said["fingerprint"] != fingerprint(reference.attributes, prompts[:count], seeds[:count]):
        raise StoreError(
            f"{run.path} is a run of another reference, {said['path']} as it was then, with "
            f"fingerprint {said['fingerprint']}; compare it with that one"
        )


def _differs(reference: Root, run: Root, name: str, first: object, second: object) -> StoreError:
    return StoreError(
        f"{run.path} cannot be compared with {reference.path}: its {name} is {second!r}, that of "
        f"the reference is {first!r}"
    )

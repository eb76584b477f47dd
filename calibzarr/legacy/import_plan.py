"""What an import will make of an old directory: planned, and checked, before it is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from calibzarr import parallel
from calibzarr.errors import Message, Option, OptionError, at_least
from calibzarr.legacy import old_directory, old_format, old_statistics, trajectories
from calibzarr.legacy.bounded import Unreadable
from calibzarr.legacy.choices import LAYOUTS, Layout
from calibzarr.legacy.old_directory import OldManifest, States
from calibzarr.legacy.origin import Origin, find_origin
from calibzarr.legacy.trajectories import Reference
from calibzarr.models.formulas import PIXELS_PER_LATENT
from calibzarr.storage import objects, schema, store
from calibzarr.storage.manifest import Root, about_new_store, prompts_sha256, read_root

_LIBRARIES = ("calibzarr", "numpy", "zarr")
_COMPARED = 3  # images of a store that are tried for a comparison with the directory


@dataclass(frozen=True)
class ImportPlan:
    """What an import will make, planned and checked before anything is created.

    Attributes:
        directory: the old directory.
        path: directory of the store.
        exists: whether the store is there, from an earlier run of this import.
        reference: what the images have in common.
        sizes: sizes of the store's dimensions.
        origin: where the images come from.
        attributes: the store's manifest.
        candidates: images of which all states are there.
        left_out: the others, and what is missing of each.
        manifest: of the old directory.
        notes: what the user should know, a line each.
        workers: threads; nearly all of the time is spent outside of Python.
    """

    directory: Path
    path: Path
    exists: bool
    reference: Reference
    sizes: store.Sizes
    origin: Origin
    attributes: Mapping[str, Any]
    candidates: tuple[int, ...]
    left_out: Mapping[int, str]
    manifest: OldManifest
    notes: tuple[str | Message, ...]
    workers: int

    @property
    def num_images(self) -> int:
        """Images of the whole store."""
        return self.sizes.num_images

    def picture_path(self, image: int) -> Path:
        """File of an image's picture."""
        known = self.manifest.images.get(image)
        filename = None if known is None else known.filename
        return old_directory.picture_path(self.directory, self.manifest.folder, image, filename)

    def missing(self) -> list[int]:
        """Images to import now, in order."""
        if not objects.exists(self.path):
            return list(self.candidates)
        complete = store.completed(self.path, self.num_images)
        return [image for image in self.candidates if not complete[image]]


def plan(
    directory: str | Path,
    path: str | Path,
    *,
    prompts: str | Path | None = None,
    model: str | None = None,
    cfg_weight: float | None = None,
    seed: int | None = None,
    layout: Layout | None = None,
    workers: int | None = None,
) -> ImportPlan:
    """Plan what to import; create nothing. See :func:`calibzarr.legacy.importing.import_legacy`."""
    directory, path = Path(directory), Path(path)
    _check_options(directory, layout, workers)
    found = _explore(directory, layout)
    origin = find_origin(
        directory,
        found.manifest,
        found.candidates,
        found.sizes.num_images,
        prompts=None if prompts is None else Path(prompts),
        model=model,
        cfg_weight=cfg_weight,
        seed=seed,
    )
    statistics, problems = old_statistics.read(directory)
    plan = ImportPlan(
        directory=directory,
        path=path,
        exists=objects.exists(path),
        reference=found.reference,
        sizes=found.sizes,
        origin=origin,
        attributes=_attributes(found, origin, statistics),
        candidates=found.candidates,
        left_out=found.left_out,
        manifest=found.manifest,
        notes=(*found.manifest.problems, *problems, *origin.notes),
        workers=workers or parallel.default_workers(),
    )
    if plan.exists:
        _check_same(plan)
    _check_room(plan)
    return plan


@dataclass(frozen=True)
class _Found:
    """What an old directory holds; its attributes are those of :class:`ImportPlan`."""

    manifest: OldManifest
    reference: Reference
    sizes: store.Sizes
    candidates: tuple[int, ...]
    left_out: Mapping[int, str]


def _explore(directory: Path, layout: str | None) -> _Found:
    manifest, states = old_directory.read_manifest(directory), old_directory.list_states(directory)
    num_states = _num_states(manifest, states)
    candidates = states.images[states.begun >= num_states].tolist()
    reference = trajectories.find(directory, candidates, num_states, layout)
    return _Found(
        manifest=manifest,
        reference=reference,
        sizes=store.Sizes(
            num_images=1 + max((*candidates, *manifest.images)),  # of no stray state
            num_steps=num_states - 1,
            latent_shape=reference.latent_shape,
            image_size=PIXELS_PER_LATENT * reference.latent_shape[1],
        ),
        candidates=tuple(candidates),
        left_out=_missing_states(manifest, states, num_states),
    )


def _check_options(directory: Path, layout: str | None, workers: int | None) -> None:
    if not directory.is_dir():
        raise NotADirectoryError(f"{directory} is not a directory")
    if workers is not None:
        at_least("workers", workers, 1)
    if layout not in (None, *LAYOUTS):
        allowed = " or ".join(LAYOUTS)
        raise OptionError(Option("layout"), f" must be {allowed}, got {layout!r}")


def _num_states(manifest: OldManifest, states: States) -> int:
    """How many states an image has: what the manifest says, or else what most images have."""
    told = manifest.about.get("num_steps")
    if isinstance(told, int) and (states.begun >= told + 1).any() and told > 0:
        return told + 1
    numbers, counts = np.unique(states.begun, return_counts=True)
    return int(numbers[len(counts) - 1 - counts[::-1].argmax()])


def _missing_states(manifest: OldManifest, states: States, num_states: int) -> dict[int, str]:
    missing = {image: "has no state at all" for image in manifest.images}
    for image, begun in zip(states.images.tolist(), states.begun.tolist(), strict=True):
        missing.pop(image, None)
        if begun < num_states:
            missing[image] = f"{old_format.state_name(image, begun)} is missing"
    return missing


def _attributes(
    found: _Found, origin: Origin, statistics: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The store's manifest; what is not known is None."""
    attributes: dict[str, Any] = {
        **dict.fromkeys(schema.FINGERPRINT),
        "model": origin.model,
        "num_images": found.sizes.num_images,
        "num_steps": found.sizes.num_steps,
        "cfg_weight": origin.cfg_weight,
        "image_size": found.sizes.image_size,
        "latent_dtype": "float32",
        "seed": origin.seed,
        "prompts_sha256": prompts_sha256(origin.prompts),
        "prompt_source": origin.prompt_source,
        **about_new_store(_LIBRARIES, origin.model),
        "n_completed": 0,
        schema.IMPORTED: {
            "layout": found.reference.layout,
            "manifest": dict(found.manifest.about),
        },
    }
    if statistics is not None:
        attributes[old_statistics.ATTRIBUTE] = statistics
    return attributes


def _check_room(plan: ImportPlan) -> None:
    """Check that the store can be written, and that the disk is not clearly too small."""
    objects.check_writable(plan.path)
    values = len(plan.reference.sigma) * np.prod(plan.reference.latent_shape)
    needed = objects.STORED_FRACTION * 4 * values * len(plan.missing())
    objects.check_room(plan.path, needed, "make room first")


def _check_same(plan: ImportPlan) -> None:
    """Check that a store is an import of this directory, which may go on.

    Raises:
        OptionError: if it is another; says in what.
    """
    root = read_root(plan.path)
    if schema.IMPORTED not in root.attributes:
        raise OptionError(f"{plan.path} exists already, and was not imported; choose another path")
    differing = _differences(plan, root)
    if differing:
        raise OptionError(
            f"{plan.path} differs from {plan.directory} in {', '.join(differing)}, and is no "
            f"import of it; choose another path"
        )


def _differences(plan: ImportPlan, root: Root) -> list[str]:
    """Names of what differs between the store and the directory."""
    stored, planned = root.attributes, plan.attributes
    group = store.open_group(root, mode="r")
    prompts, seeds = store.stored_prompts(root)
    common = min(len(prompts), plan.num_images)
    differing = [
        name
        for name in ("model", "num_steps", "cfg_weight", "image_size", "latent_dtype")
        if None not in (stored.get(name), planned[name]) and stored[name] != planned[name]
    ]
    if tuple(prompts[:common]) != plan.origin.prompts[:common]:
        differing.append("prompts")
    if tuple(seeds[:common]) != plan.origin.seeds[:common]:
        differing.append("seeds")
    if not np.array_equal(store.array(group, schema.SIGMA.name)[:], plan.reference.sigma):
        differing.append("sigma")
    if not differing and not _same_states(plan, group):
        differing.append("states")
    return differing


def _same_states(plan: ImportPlan, group: zarr.Group) -> bool:
    """Whether an image that is complete in the store has the same final state in both."""
    latents = store.array(group, schema.LATENTS.name)
    complete = store.completed(plan.path, latents.shape[0])
    both = [image for image in plan.candidates if image < len(complete) and complete[image]]
    last = len(plan.reference.sigma) - 1
    for image in both[:_COMPARED]:
        *_, path = old_directory.state_paths(plan.directory, image, last + 1)
        try:
            state = trajectories.read_state(path, last, plan.reference)
        except Unreadable:
            continue
        return np.array_equal(state, np.asarray(latents[image, last]), equal_nan=True)
    return True

"""What a build will make: planned, and checked, before anything is loaded or created."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from calibzarr.errors import Call, Option, OptionError, at_least, image_range
from calibzarr.models import registry
from calibzarr.models.entry import ModelEntry
from calibzarr.models.loading.sources import short_name
from calibzarr.prompts import lists as prompt_lists
from calibzarr.prompts.lists import PromptList
from calibzarr.sampling import runs
from calibzarr.sampling.options import SETTINGS, BuildOptions, Settings, refuse_differences
from calibzarr.sampling.runs import Run
from calibzarr.storage import objects, schema, store
from calibzarr.storage.manifest import Root, read_root

DEFAULT_NUM_IMAGES = 16  # of the embedded model's own prompts


@dataclass(frozen=True)
class BuildPlan:
    """What a build will make, planned and checked before anything is loaded or created.

    Attributes:
        path: directory of the store.
        root: what the store's root says, if the store is there already, to be gone on with.
        entry: the model.
        settings: what decides the images beside their prompts.
        prompts: one for each image.
        seeds: one for each image.
        prompt_source: where the prompts come from.
        images: the images to build now; the others are another builder's.
        run: what makes the store a run of a reference, if it is one.
        notes: what the user should know of the prompts, a line each.
    """

    path: Path
    root: Root | None
    entry: ModelEntry
    settings: Settings
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    prompt_source: str
    images: range
    run: Run | None = None
    notes: tuple[str, ...] = ()

    @property
    def num_images(self) -> int:
        """Images of the whole store."""
        return len(self.prompts)

    @property
    def sizes(self) -> store.Sizes:
        """Sizes of the store's dimensions."""
        image_size = self.settings.image_size
        latent_shape = self.entry.latent_shape(image_size)
        return store.Sizes(self.num_images, self.settings.num_steps, latent_shape, image_size)

    @property
    def image_bytes(self) -> int:
        """Estimate of one image's bytes on disk."""
        return self.sizes.image_bytes(self.settings.latent_dtype)

    def complete(self) -> np.ndarray:
        """Which images of the store are complete; shape (image,), bool."""
        if self.root is None:
            return np.zeros(self.num_images, dtype=bool)
        return store.completed(self.path, self.num_images)

    def missing(self) -> list[int]:
        """Images to build now, in order."""
        complete = self.complete()
        return [image for image in self.images if not complete[image]]


def plan(path: str | Path | None = None, options: BuildOptions | None = None) -> BuildPlan:
    """Plan what to build; load and create nothing.

    What is not given comes from the store, when one is resumed, or from the model's defaults.

    Args:
        path: directory of the store; ``stores/<model>.zarr`` if not given.
        options: as the parameters of :func:`calibzarr.build`.

    Raises:
        OptionError: if a value is not allowed, or differs from that of the store to resume.
        ValueError: if the prompt file or the store cannot be used.
        OSError: if something cannot be read, or ``path`` cannot be written.
    """
    options = (options or BuildOptions()).with_checkpoint()
    wants_run = options.reference is not None or options.quantized is not None
    if wants_run and path is None:
        raise OptionError(Option("reference"), " needs a path for the new store")
    default = Path("stores") / f"{short_name(options.model or 'tiny')}.zarr"
    path = default if path is None else Path(path)
    root = _root_to_resume(path, resume=options.resume) if objects.exists(path) else None
    if root is None and options.resume and not options.says_what_to_begin():
        raise OptionError(
            f"there is no store at {path} to go on with{objects.near(path)}; to begin one there, "
            "say what with ",
            *(Option("model"), ", ", Option("prompts"), " or ", Option("num_images")),
        )
    of_run = wants_run or (root is not None and schema.QUANTIZED in root.attributes)
    plan = _plan_run(path, root, options) if of_run else _plan_build(path, root, options)
    objects.check_writable(path)
    needed = len(plan.missing()) * plan.image_bytes
    objects.check_room(path, needed, "make room, or build fewer images")
    return plan


def _plan_build(path: Path, root: Root | None, options: BuildOptions) -> BuildPlan:
    stored = {} if root is None else root.attributes
    entry = registry.find(options.model or stored.get("model", "tiny"))
    if root is not None:
        options = _with_stored_batch(options, root)
        given = {name: getattr(options, name) for name in SETTINGS}
        given["model"] = options.model and entry.name  # of a path, the whole
        refuse_differences(path, stored, given)
    if options.num_images is not None:
        at_least("num_images", options.num_images, 1)
    settings = Settings.of(options, stored, entry)
    prompts, seeds, source, notes = _choose_prompts(root, entry, settings.seed, options)
    count = len(prompts)
    if root is None:
        settings = replace(settings, batch_size=min(settings.batch_size, count))
    return BuildPlan(
        path=path,
        root=root,
        entry=entry,
        settings=settings,
        prompts=tuple(prompts),
        seeds=tuple(seeds),
        prompt_source=source,
        images=range(count) if options.images is None else image_range(options.images, count),
        notes=notes,
    )


def _with_stored_batch(options: BuildOptions, root: Root) -> BuildOptions:
    """The same, where a batch larger than a store was given, which was cut to its images."""
    stored, given = root.attributes.get("batch_size"), options.batch_size
    cut = given is not None and stored is not None and given > root.num_images <= stored
    return replace(options, batch_size=stored) if cut else options


def _plan_run(path: Path, root: Root | None, options: BuildOptions) -> BuildPlan:
    """The plan of a run: that of its reference with a quantized model."""
    runs.check_options(options)
    run = None if root is None else runs.stored(root)
    if root is not None and run is None:
        raise OptionError(
            f"{path} was made by a model that is not quantized, and cannot go on by one that is; "
            "choose another path"
        )
    if options.reference is not None and options.quantized is not None:
        asked = runs.of(Path(options.reference), options.quantized)
        if run is not None:
            stored, given = (runs.identity(one.attributes) for one in (run, asked))
            refuse_differences(path, stored, given)
        run = run or asked
    assert run is not None
    source = root or run.source
    assert source is not None
    plan = plan_of(path, source.attributes, *store.stored_prompts(source))
    chosen = plan.images
    if options.images is not None:
        chosen = image_range(options.images, plan.num_images)
    return replace(plan, root=root, images=chosen, run=run)


def plan_of(
    path: Path, attributes: Mapping[str, Any], prompts: Sequence[str], seeds: Sequence[int]
) -> BuildPlan:
    """The plan that a store was built by, to make its images again.

    Args:
        path: directory of the store.
        attributes: its manifest.
        prompts: one for each image.
        seeds: one for each image.
    """
    known: dict[str, Any] = {name: attributes.get(name) for name in SETTINGS}
    known["batch_size"] = known["batch_size"] or 1  # imported stores do not know it
    return BuildPlan(
        path=path,
        root=None,
        entry=registry.find(attributes["model"]),
        settings=Settings(**known),
        prompts=tuple(prompts),
        seeds=tuple(seeds),
        prompt_source=str(attributes.get("prompt_source")),
        images=range(len(prompts)),
    )


def _root_to_resume(path: Path, *, resume: bool) -> Root:
    """What the root of a store says that a build may go on with.

    Raises:
        OptionError: if it may not.
    """
    root = read_root(path)
    if not resume:
        raise OptionError(
            f"{path} exists already; go on with it by ",
            Option("resume", value=True),
            ", or choose another path",
        )
    if schema.IMPORTED in root.attributes:
        raise OptionError(
            f"{path} was imported, and which weights made it is not known: only the same ",
            Call("import_legacy", ("DIR", path)),
            " can add to it; build another store",
        )
    return root


def _choose_prompts(
    root: Root | None, entry: ModelEntry, seed: int, options: BuildOptions
) -> tuple[Sequence[str], Sequence[int], str, tuple[str, ...]]:
    """Prompts and seeds of all images, where they come from, and notes on them."""
    before, seeds_before = ([], []) if root is None else store.stored_prompts(root)
    num_images = options.num_images or len(before)
    if root is not None and num_images < len(before):
        raise OptionError(
            f"{root.path} was begun with ",
            Option("num_images"),
            f" {len(before)}, and cannot shrink to {num_images}",
        )
    available = _available_prompts(root, entry, options.prompts)
    if available is not None:
        default = DEFAULT_NUM_IMAGES if options.prompts is None else len(available.prompts)
        prompts, seeds = prompt_lists.assign(
            available, num_images or default, seed, repeat=options.repeat
        )
        if root is not None:
            _refuse_other_prompts(root.path, before, seeds_before, prompts, seeds)
        repeats = prompt_lists.notes_of_repeats(prompts, seeds)
        return prompts, seeds, available.source, (*available.notes, *repeats)
    assert root is not None
    if num_images > len(before):
        raise OptionError(
            f"{root.path} has prompts for {len(before)} images; for {num_images} give ",
            Option("prompts"),
            " with the longer list",
        )
    return before, seeds_before, root.attributes["prompt_source"], ()


def _refuse_other_prompts(
    path: Path,
    stored: Sequence[str],
    stored_seeds: Sequence[int],
    prompts: Sequence[str],
    seeds: Sequence[int],
) -> None:
    """Check that the first prompts and seeds are those of a store.

    Raises:
        OptionError: if not, naming the first that differs.
    """
    for image, before in enumerate(zip(stored, stored_seeds, strict=True)):
        now = prompts[image], seeds[image]
        for name, was, given in zip(("prompt", "seed"), before, now, strict=True):
            if was != given:
                raise OptionError(
                    f"{path} was begun with {name} {was!r} for image {image}, and cannot go on "
                    f"with {given!r}; give the same prompt file, or build another store"
                )


def _available_prompts(
    root: Root | None, entry: ModelEntry, file: str | Path | None
) -> PromptList | None:
    """The prompts to choose from; None where a store alone knows its own."""
    if file is not None:
        return prompt_lists.read_prompts(Path(file))
    if entry.prompts is not None:
        built_in = entry.prompts()
        if root is None or root.attributes.get("prompt_source") == built_in.source:
            return built_in
    elif root is None:
        raise OptionError(
            f"{entry.name} has no prompts of its own; give a file with ", Option("prompts")
        )
    return None

"""Where an old directory's images come from: what its manifest says, or else the user."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calibzarr.errors import Message, Option, OptionError, StoreError
from calibzarr.legacy.old_directory import OldManifest, number_or_none
from calibzarr.models import builtin, registry
from calibzarr.prompts.lists import MAX_SEED, PromptList, read_prompts


@dataclass(frozen=True)
class Origin:
    """Where the images of an old directory come from.

    Attributes:
        prompts: one for each image, "" for one that is not known.
        seeds: one for each image.
        seed: of image 0, from which those that are not known are counted.
        model: name of the one that made the states, or None.
        cfg_weight: guidance weight of all images, or None.
        prompt_source: where the prompts come from.
        notes: what the user should know, a line each.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    seed: int
    model: str | None
    cfg_weight: float | None
    prompt_source: str
    notes: tuple[Message, ...]


def find_origin(
    directory: Path,
    manifest: OldManifest,
    candidates: Sequence[int],
    num_images: int,
    *,
    prompts: Path | None,
    model: str | None,
    cfg_weight: float | None,
    seed: int | None,
) -> Origin:
    """Find out where images come from; what is given counts where the manifest says nothing.

    Args:
        directory: the old directory.
        manifest: of it.
        candidates: images that will be imported, which must have a prompt.
        num_images: images up to the last one that is known of.
        prompts: file of prompts; prompt i is that of image i.
        model: a name that the registry knows.
        cfg_weight: guidance weight.
        seed: of image 0.

    Raises:
        OptionError: if a value is not allowed.
        StoreError: if a candidate has no prompt.
    """
    given = PromptList((), (), "not known") if prompts is None else read_prompts(prompts)
    texts = _prompts(manifest, given, num_images)
    unnamed = [image for image in candidates if not texts[image]]
    if unnamed:
        raise _no_prompt(directory, manifest, given, unnamed)
    known_seeds = _known_seeds(manifest, given, num_images)
    first, seed_notes = _first_seed(manifest, known_seeds, candidates, seed)
    name, model_notes = _model(manifest, model)
    weight, weight_notes = _cfg_weight(manifest, cfg_weight)
    source = manifest.about.get("prompt_path")
    return Origin(
        prompts=tuple(texts),
        seeds=tuple(
            first + image if known is None else known for image, known in enumerate(known_seeds)
        ),
        seed=first,
        model=name,
        cfg_weight=weight,
        prompt_source=source if isinstance(source, str) else given.source,
        notes=(*seed_notes, *model_notes, *weight_notes),
    )


def _prompts(manifest: OldManifest, given: PromptList, num_images: int) -> list[str]:
    texts = [*given.prompts[:num_images], *[""] * (num_images - len(given.prompts))]
    for image, known in manifest.images.items():
        if known.prompt is not None:
            texts[image] = known.prompt
    return texts


def _no_prompt(
    directory: Path, manifest: OldManifest, given: PromptList, unnamed: Sequence[int]
) -> StoreError:
    count = f" and {len(unnamed) - 1} more" if len(unnamed) > 1 else ""
    reason = "; ".join(manifest.problems) or "the manifest lacks it"
    told = f"; {given.source} has {len(given.prompts)}" if given.prompts else ""
    return StoreError(
        f"{directory}: the prompt of image {unnamed[0]}{count} is not known ({reason}{told}); give "
        f"a file of all prompts, one for each image from image 0 on, by ",
        Option("prompts"),
    )


def _known_seeds(manifest: OldManifest, given: PromptList, num_images: int) -> list[int | None]:
    seeds: list[int | None] = [None] * num_images
    seeds[: len(given.seeds)] = given.seeds[:num_images]
    for image, known in manifest.images.items():
        if known.seed is not None:
            seeds[image] = known.seed
    return seeds


def _first_seed(
    manifest: OldManifest,
    known_seeds: Sequence[int | None],
    candidates: Sequence[int],
    given: int | None,
) -> tuple[int, list[Message]]:
    """Seed of image 0, and what the user should know of it."""
    first = given if given is not None else manifest.about.get("seed_base")
    notes = []
    if isinstance(first, bool) or not isinstance(first, int):
        first = known_seeds[0] or 0
        if any(known_seeds[image] is None for image in candidates):
            note = f"the seeds of some images are not known: taking {first} + the image's index; "
            notes.append(Message(note, Option("seed"), " says another"))
    most = MAX_SEED - len(known_seeds) + 1
    if not 0 <= first <= most:
        raise OptionError(
            Option("seed"), f" must be 0 to {most} for {len(known_seeds)} images, got {first}"
        )
    return first, notes


def _model(manifest: OldManifest, given: str | None) -> tuple[str | None, list[Message]]:
    """Name of the model that made the states, or None; and what the user should know of it."""
    if given is not None:
        return registry.find(given).name, []
    told = manifest.about.get("model_version")
    for entry in builtin.MODELS.values():
        names = (entry.name, _short_name(entry.repository or entry.name))
        if isinstance(told, str) and _short_name(told) in names:
            return entry.name, []
    says = "" if told is None else f" (the manifest says {told!r})"
    note = f"which model made the states is not known{says}; to collect, name it by "
    return None, [Message(note, Option("model"))]


def _short_name(repository: str) -> str:
    return repository.lower().rpartition("/")[2].removeprefix("mlx-")


def _cfg_weight(manifest: OldManifest, given: float | None) -> tuple[float | None, list[Message]]:
    """Guidance weight of all images, or None; and what the user should know of it."""
    if given is not None:
        if not 0 <= given < float("inf"):
            raise OptionError(Option("cfg_weight"), f" must be 0 or more, got {given}")
        return float(given), []
    weights = {image.cfg_weight for image in manifest.images.values()} - {None}
    if len(weights) > 1:
        note = "the images differ in cfg_weight, and a store has one: taking it as not known"
        return None, [Message(note)]
    weight = weights.pop() if weights else number_or_none(manifest.about.get("cfg_scale"))
    if weight is None:
        note = "the guidance weight is not known; to collect, say it by "
        return None, [Message(note, Option("cfg_weight"))]
    return weight, []

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

    What is given of a known model or number and contradicts the manifest is refused; what is not
    used otherwise is noted.

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
        OptionError: if a value is not allowed, or contradicts the manifest.
        StoreError: if a candidate has no prompt.
    """
    given = PromptList((), (), "not known") if prompts is None else read_prompts(prompts)
    texts, prompt_notes = _prompts(manifest, given, candidates, num_images)
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
        notes=(*prompt_notes, *seed_notes, *model_notes, *weight_notes),
    )


def _prompts(
    manifest: OldManifest, given: PromptList, candidates: Sequence[int], num_images: int
) -> tuple[list[str], list[Message]]:
    """Prompts of all images, "" where none is known; and what the user should know of them."""
    texts = [*given.prompts[:num_images], *[""] * (num_images - len(given.prompts))]
    known = {
        image: entry.prompt for image, entry in manifest.images.items() if entry.prompt is not None
    }
    notes = [Message(note) for note in given.notes]
    others = [image for image, prompt in known.items() if texts[image] not in ("", prompt)]
    if given.prompts and known.keys() >= set(candidates):
        notes = [Message(Option("prompts"), " is not used: the manifest has all prompts")]
    if others:
        text = f"the manifest has another prompt for image {others[0]}, and counts"
        notes.append(Message(text + (f"; so for {len(others) - 1} others" if others[1:] else "")))
    for image, prompt in known.items():
        texts[image] = prompt
    return texts, notes


def _refuse_contradiction(name: str, given: object, told: object) -> None:
    """Check that what is given is what a manifest says, if it says anything.

    Raises:
        OptionError: if not, naming both.
    """
    if told is not None and given != told:
        raise OptionError(
            Option(name),
            f" is {given!r}, but the manifest says {told!r}; leave the option out, or correct the "
            "manifest",
        )


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
    told = manifest.about.get("seed_base")
    if isinstance(told, bool) or not isinstance(told, int):
        told = manifest.images[0].seed if 0 in manifest.images else None
    first = given if given is not None else told
    notes = []
    if first is None:
        first = known_seeds[0] or 0
        if any(known_seeds[image] is None for image in candidates):
            note = f"the seeds of some images are not known: taking {first} + the image's index; "
            notes.append(Message(note, Option("seed"), " says another"))
    most = MAX_SEED - len(known_seeds) + 1
    if not 0 <= first <= most:
        raise OptionError(
            Option("seed"), f" must be 0 to {most} for {len(known_seeds)} images, got {first}"
        )
    if given is not None:
        _refuse_contradiction("seed", given, told)
        if all(known_seeds[image] is not None for image in candidates):
            notes.append(Message(Option("seed"), " is not used: the seeds of all images are known"))
    return first, notes


def _model(manifest: OldManifest, given: str | None) -> tuple[str | None, list[Message]]:
    """Name of the model that made the states, or None; and what the user should know of it."""
    told = manifest.about.get("model_version")
    known = [
        entry.name
        for entry in builtin.MODELS.values()
        if isinstance(told, str)
        and _short_name(told) in (entry.name, _short_name(entry.repository or entry.name))
    ]
    if given is not None:
        name = registry.find(given).name
        if known and name not in known:
            _refuse_contradiction("model", given, told)
        unknown = f"taking {name} for the model, which the manifest calls {told!r}"
        return name, [] if known or told is None else [Message(unknown)]
    if known:
        return known[0], []
    says = "" if told is None else f" (the manifest says {told!r})"
    note = f"which model made the states is not known{says}; to collect, name it by "
    return None, [Message(note, Option("model"))]


def _short_name(repository: str) -> str:
    return repository.lower().rpartition("/")[2].removeprefix("mlx-")


def _cfg_weight(manifest: OldManifest, given: float | None) -> tuple[float | None, list[Message]]:
    """Guidance weight of all images, or None; and what the user should know of it."""
    if given is not None and not 0 <= given < float("inf"):
        raise OptionError(Option("cfg_weight"), f" must be 0 or more, got {given}")
    weights = {image.cfg_weight for image in manifest.images.values()} - {None}
    if len(weights) > 1 and given is not None:
        return float(given), [Message(f"the images differ in cfg_weight; taking {given:g} for all")]
    if len(weights) > 1:
        note = "the images differ in cfg_weight, and a store has one: taking it as not known"
        return None, [Message(note)]
    weight = weights.pop() if weights else number_or_none(manifest.about.get("cfg_scale"))
    if given is not None:
        _refuse_contradiction("cfg_weight", float(given), weight)
        return float(given), []
    if weight is None:
        note = "the guidance weight is not known; to collect, say it by "
        return None, [Message(note, Option("cfg_weight"))]
    return weight, []

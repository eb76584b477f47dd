"""Whether each image of a store is whole and true."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from rich.console import Console

from calibzarr.errors import StoreError
from calibzarr.integrity import picture_fit, trajectory_checks
from calibzarr.integrity.findings import Tally
from calibzarr.integrity.opened import Opened
from calibzarr.integrity.picture_fit import Outline
from calibzarr.models import registry
from calibzarr.models.entry import Noise
from calibzarr.progress import reporting
from calibzarr.prompts.lists import MAX_SEED
from calibzarr.storage import copies, schema, shards

_WORKERS = min(os.cpu_count() or 1, 4)  # each holds one image


def check_images(opened: Opened, console: Console) -> Tally:
    """Check every complete image, several at a time, in threads.

    Args:
        opened: the store.
        console: where to report progress.
    """
    images = np.flatnonzero(opened.complete).tolist()
    tally, outlines = Tally(), dict[int, Outline]()
    with (
        reporting(console, "verify", "image", len(images)) as report,
        ThreadPoolExecutor(_WORKERS) as pool,
    ):
        try:
            checks = pool.map(lambda image: check_image(opened, image), images)
            for image, (found, outline) in zip(images, checks, strict=True):
                tally.add(found)
                if outline is not None:
                    outlines[image] = outline
                report.advance(1)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    owners = picture_fit.owners(list(outlines.values()))
    for image, owner in zip(outlines, owners.tolist(), strict=True):
        whose = list(outlines)[owner]
        errors = [f"it looks like the picture of image {whose}"] if whose != image else []
        tally.record("picture", errors, image)
    return tally


def check_image(opened: Opened, image: int) -> tuple[Tally, Outline | None]:
    """Check one image that is complete.

    Returns:
        What was found, and what is left to be told by other images' pictures.
    """
    tally, states = Tally(), None
    try:
        states = opened.states(image)
    except StoreError as error:
        why = str(error).removeprefix(f"{opened.path}/")
        tally.record("states", [f"they cannot be read: {why}"], image)
    else:
        tally.record("states", [], image)
        _check_states(opened, image, states, tally)
    errors, picture = _picture_errors(opened, image)
    if picture is not None and states is not None and np.isfinite(states[-1]).all():
        return tally, picture_fit.outline(states[-1], picture)
    tally.record("picture", errors, image)
    return tally, None


def _check_states(opened: Opened, image: int, states: np.ndarray, tally: Tally) -> None:
    finite = np.isfinite(states).all(axis=(1, 2, 3))
    count = int((~finite).sum())
    more = f" and {count - 1} more have" if count > 1 else " has"
    message = f"state {finite.argmin()}{more} values that are not finite"
    tally.record("finite", [message] if count else [], image)
    sigma, seeds = map(opened.coordinates.get, (schema.SIGMA.name, schema.SEED.name))
    if sigma is None or not np.isfinite(sigma).all():
        return
    noise = registry.noise_of(opened.attributes)
    is_seed = seeds is not None and 0 <= seeds[image] <= MAX_SEED
    if is_seed and noise is not None and finite[0]:
        tally.record("noise", _noise_errors(states[0], noise, image, opened), image)
    bounded = trajectory_checks.turns_are_bounded(
        len(states) - 1, opened.attributes.get("cfg_weight")
    )
    if bounded and finite.all() and (np.diff(sigma) < 0).all():
        turns = trajectory_checks.turns(states, sigma)
        step = int(turns.argmax())
        message = (
            f"states {step} to {step + 2} turn by {turns[step]:.3f}; a path turns by at most "
            f"{trajectory_checks.MAX_TURN}"
        )
        tally.record("euler", [message] if turns[step] > trajectory_checks.MAX_TURN else [], image)


def _noise_errors(state: np.ndarray, noise: Noise, image: int, opened: Opened) -> list[str]:
    seeds, sigma = (opened.coordinates[v.name] for v in (schema.SEED, schema.SIGMA))
    first, seed = float(sigma[0]), opened.attributes["seed"]
    if trajectory_checks.is_noise_of(state, noise, int(seeds[image]), first):
        return []
    message = f"its first state is not the noise of its seed {seeds[image]}"
    likely = np.append([seed + image] if isinstance(seed, int) else [], seeds).astype(np.int64)
    likely = likely[(likely >= 0) & (likely <= MAX_SEED)]
    found = trajectory_checks.seed_of_noise(state, noise, first, likely)
    if found is None:
        return [message]
    owners = np.flatnonzero(seeds == found)
    whose = f", which is image {owners[0]}'s" if len(owners) else ""
    return [f"{message}, but of seed {found}{whose}"]


def _picture_errors(opened: Opened, image: int) -> tuple[list[str], np.ndarray | None]:
    """What is wrong with a picture; and the picture, if nothing is and nothing says whose it is."""
    file, shard = (opened.file(variable, image) for variable in (schema.DECODED, schema.LATENTS))
    if not file.exists():
        return ["it is missing"], None
    try:
        num_states = opened.root.arrays[schema.LATENTS.name]["shape"][1]
        belongs = shards.picture_sha256(shard, num_states)
    except StoreError:
        belongs = None  # which is found about the states
    if belongs is not None and copies.hash_file(file) != belongs.hex():
        return ["it is not the picture that was written with its states"], None
    try:
        picture = opened.read(schema.DECODED.name, image)
    except StoreError as error:
        return [f"it cannot be read: {error}"], None
    if schema.IMPORTED in opened.attributes and not picture.any():
        return [], None  # there was none to import
    if (picture == picture[0, 0]).all():
        return [f"all its pixels are {tuple(picture[0, 0].tolist())}"], None
    return [], picture if belongs is None else None

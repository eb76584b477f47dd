"""Making images of a store again with its model, and comparing them with what is stored."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console

from calibzarr.errors import OptionError, StoreError
from calibzarr.integrity import set_aside
from calibzarr.integrity.findings import Tally
from calibzarr.integrity.opened import Opened
from calibzarr.models import registry
from calibzarr.models.base import Model
from calibzarr.models.text import tokens
from calibzarr.progress import Silent, reporting
from calibzarr.sampling import builder, models
from calibzarr.sampling.plan import plan_of
from calibzarr.storage import schema, store
from calibzarr.storage.manifest import check_known

_PICTURE_TOLERANCE = 1  # of 255, where states are within theirs


def check(
    opened: Opened,
    images: np.ndarray,
    *,
    sample: int,
    seed: int,
    tolerance: float,
    console: Console,
) -> Tally:
    """Make some images again, and compare their states and pictures.

    Args:
        opened: the store.
        images: those to choose from.
        sample: how many to choose.
        seed: of the choice.
        tolerance: greatest difference of states, in latent units, that is let pass.
        console: where to report progress.

    Raises:
        OptionError: if the model is not known.
        ValueError: if the store was imported, and does not say what made it.
        FileNotFoundError: if its weights are not here and cannot be downloaded.
    """
    tally = Tally()
    chosen = np.random.default_rng(seed).permutation(images)[:sample]
    if not len(chosen):
        tally.record("model", ["there is no whole image to make again"])
        return tally
    check_known(opened.path, opened.attributes)
    model = registry.load(opened.attributes["model"])
    if opened.attributes["model_fingerprint"] not in (None, model.fingerprint):
        message = (
            f"{model.name}'s weights have the fingerprint {model.fingerprint}, but the store was "
            f"built with {opened.attributes['model_fingerprint']}; nothing was made again"
        )
        tally.record("model", [message])
        return tally
    schedule = model.schedule(opened.attributes["num_steps"])
    try:
        model = models.load(opened.root, model)
        prompts, seeds = store.stored_prompts(opened.root)
        tokens.check(opened.path, opened.attributes, prompts, model)
    except ValueError as error:
        tally.record("model", [str(error)])
        return tally
    plan = plan_of(opened.path, opened.attributes, prompts, seeds)
    again = sorted(int(image) for image in chosen)
    encode = builder.encoder(plan, model, again)
    with reporting(console, "make again", "image", len(again)) as report:
        for image in again:
            (made,) = builder.sample_group(plan, [image], model, schedule, encode, Silent())
            _compare(opened, model, image, made, tolerance, tally)
            report.advance(1)
    return tally


def _compare(
    opened: Opened,
    model: Model,
    image: int,
    made: np.ndarray,
    tolerance: float,
    tally: Tally,
) -> None:
    """Compare an image's states and picture with those that were made again."""
    stored = opened.states(image)
    error = np.abs(stored.astype(np.float32) - made.astype(stored.dtype).astype(np.float32))
    bound = tolerance + np.finfo(np.float16).eps * np.abs(made) * (stored.dtype == np.float16)
    differing = ~(error <= bound).all(axis=(1, 2, 3))
    step = int(differing.argmax())
    message = (
        f"{int(differing.sum())} of its states are not those that the model makes, from state "
        f"{step}, which is off by {error[step].max():.2g}; {tolerance:g} are let pass"
    )
    tally.record("model", [message] if differing.any() else [], image)
    # Pictures are made from states before these are rounded to float16.
    final = made[-1] if stored.dtype == np.float16 else stored[-1]
    made_picture = model.decode(final.astype(np.float32)).astype(np.int16)
    picture = opened.read(schema.DECODED.name, image).astype(np.int16)
    worst = int(np.abs(picture - made_picture).max())
    message = f"its picture is off by up to {worst} of 255 from its decoded final state"
    tally.record("decoding", [message] if worst > _PICTURE_TOLERANCE else [], image)


def decode_again(opened: Opened, images: Sequence[int]) -> list[int]:
    """Decode pictures from states that are in order; none where the model is not here, or another.

    Args:
        opened: the store.
        images: whose pictures are damaged.

    Returns:
        Images whose pictures are there again, and known to their states.
    """
    fingerprint = opened.attributes.get("model_fingerprint")
    if not images or fingerprint is None:
        return []
    try:
        model = registry.load(opened.attributes["model"])
    except (OptionError, StoreError, OSError):
        return []
    decoded, writer = [], store.ImageWriter(opened.root)
    for image in images if model.fingerprint == fingerprint else ():
        states = opened.states(image)
        picture = model.decode(states[-1].astype(np.float32))
        if (picture != picture[0, 0]).any():  # or it would be found again
            set_aside.move(opened.path, opened.file(schema.DECODED, image))
            writer.write(image, states, picture)
            decoded.append(image)
    return decoded

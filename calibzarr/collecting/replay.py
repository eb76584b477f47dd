"""Whether a model is the one that made a store's states, as far as that is known."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calibzarr.models.base import Model
from calibzarr.storage import schema, store

_SIGMA_TOLERANCE = 1e-5


def check_known(path: Path, manifest: Mapping[str, Any]) -> None:
    """Check that a manifest says what a replay needs; that of an imported store may not.

    Raises:
        ValueError: if not, naming what is not known.
    """
    for name, option in (("model", "--model NAME"), ("cfg_weight", "--cfg-weight W")):
        if manifest.get(name) is None:
            raise ValueError(
                f"{path} was imported, and its {name} is not known; give the same import-legacy "
                f"command again with {option}"
            )


def check_model(path: Path, manifest: Mapping[str, Any], model: Model) -> str | None:
    """Check that a model is the one that made a store's states.

    Where the fingerprint is not known, its latents and its schedule must at least be the same,
    and what was collected before must be of the same weights.

    Returns:
        What the user should know of it, or None.

    Raises:
        ValueError: if it is another one.
    """
    known = manifest.get("model_fingerprint")
    before = (manifest.get("activations") or {}).get("model_fingerprint")
    expected = known or before
    if expected is not None and model.fingerprint != expected:
        what = "was built" if known else "has statistics that were collected"
        raise ValueError(
            f"{path} {what} with weights of fingerprint {expected}, but {model.name} now has "
            f"{model.fingerprint}; put the old weights back, or build another store"
        )
    if known is not None:
        return None
    group = store.open_group(path, mode="r")
    shape = store.array(group, schema.LATENTS.name).shape[2:]
    sigma = np.asarray(store.array(group, schema.SIGMA.name)[:])
    schedule = model.schedule(manifest["num_steps"])
    differs = (
        "latents"
        if shape != model.latent_shape(manifest["image_size"])
        else "noise levels"
        if not np.allclose(sigma, schedule.sigma, rtol=0, atol=_SIGMA_TOLERANCE)
        else None
    )
    if differs:
        raise ValueError(
            f"{path} was imported as of {model.name}, but has other {differs} than that model"
        )
    return (
        f"{path} was imported: whether {model.name} has the weights that made its states is not "
        f"known"
    )

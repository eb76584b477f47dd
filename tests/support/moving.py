"""Moves of stores to the old directory and back, by one worker."""

import numpy as np
from rich.console import Console

from calibzarr.legacy import export_plan, exporting, import_plan, importing
from calibzarr.storage import schema, store
from calibzarr.storage.manifest import prompts_sha256
from tests.support import old_directory
from tests.support.stores import open_strictly

QUIET = Console(quiet=True)
NUM_STEPS, SIZE = 3, 4


def made_up_store(path, num_images=4, incomplete=(2,), seed=7, latent_dtype="float32"):
    """A store of made-up trajectories, without a model."""
    sigma = old_directory.sigmas(NUM_STEPS)
    prompts = [f"a thing, number {image}" for image in range(num_images)]
    coordinates = {
        schema.SIGMA.name: sigma,
        schema.TIMESTEP.name: 1000 * sigma,
        schema.FINAL.name: sigma == 0,
        schema.PROMPT.name: np.asarray(prompts, dtype=object),
        schema.SEED.name: np.arange(num_images) + seed,
    }
    attributes = {
        "model": "sd3-medium",
        "num_steps": NUM_STEPS,
        "cfg_weight": 7.5,
        "image_size": 8 * SIZE,
        "latent_dtype": latent_dtype,
        "seed": seed,
        "prompts_sha256": prompts_sha256(prompts),
        "prompt_source": "all.csv",
        "libraries": {},
        "created": f"2026-01-01T00:00:{seed:02}+00:00",
    }
    sizes = store.Sizes(num_images, NUM_STEPS, (16, SIZE, SIZE), 8 * SIZE)
    store.create(path, sizes, coordinates, attributes)
    writer = store.ImageWriter(path)
    for image in set(range(num_images)) - set(incomplete):
        states = old_directory.trajectory(image, NUM_STEPS, SIZE).transpose(0, 3, 1, 2)
        writer.write(image, states, old_directory.picture(image, SIZE))
    store.finish(path)
    return path


def bring_in(directory, path, **options):
    plan = import_plan.plan(directory, path, **{"workers": 1, **options})
    return importing.run(plan, QUIET)


def take_out(path, directory, **options):
    plan = export_plan.plan(path, directory, **{"workers": 1, **options})
    return exporting.run(plan, QUIET)


def load(path):
    return open_strictly(path).load()

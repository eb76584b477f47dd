"""Euler's method along the sampling trajectory, as a generator of states."""

from collections.abc import Iterator, Sequence

from calibzarr.models.base import Array, Conditioning, Model, Schedule


def euler_states(
    model: Model,
    conditioning: Conditioning,
    schedule: Schedule,
    seeds: Sequence[int],
    image_size: int,
) -> Iterator[Array]:
    """Sample a batch of images; give every state from the first noise to the final latents.

    Algorithm 2 of Karras et al. 2022 (arXiv 2206.00364) without its second-order correction,
    operation by operation as DiffusionKit's ``sample_euler``, so that states are equal bit for
    bit at a batch size of 1.

    Args:
        model: what denoises.
        conditioning: of the batch's prompts, from ``model.encode``.
        schedule: noise levels, from ``model.schedule``.
        seeds: one for each image.
        image_size: in pixels.

    Yields:
        ``schedule.num_steps + 1`` states in the model's layout, not yet computed where the
        model is lazy: compute each before asking for the next.
    """
    x = model.initial_latents(seeds, image_size, schedule)
    yield x
    with model.denoiser(conditioning, schedule) as denoise:
        for step in range(schedule.num_steps):
            x = schedule.euler_step(x, denoise(x, step), step)
            yield x

import numpy as np
import pytest

from calibzarr.models.base import Schedule
from calibzarr.models.diffusionkit import kit
from calibzarr.sampling.sampler import euler_states

PROMPT = "a red circle on a blue background"


class RecordingDenoiser(kit.CFGDenoiser):
    """DiffusionKit's denoiser, keeping every state that its sampler hands it."""

    def __init__(self, pipeline):
        super().__init__(pipeline)
        self.states = []

    def __call__(self, x, *args, **kwargs):
        self.states.append(np.array(x))
        return super().__call__(x, *args, **kwargs)


def sample_with_diffusionkit(pipeline, prompt, cfg_weight, num_steps, seed, latent_size):
    """States (channels last) and decoded picture of DiffusionKit's own sampler."""
    tokens, pooled = pipeline.encode_text(prompt, cfg_weight, "")
    rows = 2 if cfg_weight > 0 else 1
    empty = pipeline.get_empty_latent(latent_size, latent_size)
    sigmas = pipeline.get_sigmas(pipeline.sampler, num_steps)
    noise = pipeline.sampler.noise_scaling(
        sigmas[0], pipeline.get_noise(seed, empty), empty, pipeline.max_denoise(sigmas)
    )
    denoiser = RecordingDenoiser(pipeline)
    final, _ = kit.sample_euler(
        denoiser,
        noise,
        sigmas,
        extra_args={
            "conditioning": tokens[:rows].astype(pipeline.activation_dtype),
            "pooled_conditioning": pooled[:rows].astype(pipeline.activation_dtype),
            "cfg_weight": cfg_weight,
        },
    )
    out = pipeline.latent_format.process_out(final).astype(pipeline.activation_dtype)
    decoded = np.array((pipeline.decode_latents_to_image(out) * 255).astype(kit.mx.uint8))
    return np.stack([*denoiser.states, np.array(final)]), np.array(sigmas), decoded[0]


@pytest.mark.parametrize("cfg_weight", [3.0, 0.0])
def test_states_equal_those_of_diffusionkit_bit_for_bit(tiny, cfg_weight):
    schedule = tiny.schedule(4)
    conditioning = tiny.encode([PROMPT], cfg_weight)
    states = euler_states(tiny, conditioning, schedule, [5], 64)
    actual = np.stack([tiny.to_numpy(state)[0] for state in states])
    expected, sigmas, decoded = sample_with_diffusionkit(
        tiny.pipeline, PROMPT, cfg_weight, 4, seed=5, latent_size=8
    )
    np.testing.assert_array_equal(actual, expected[:, 0].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(schedule.sigma, sigmas)
    np.testing.assert_array_equal(tiny.decode(actual[-1]), decoded)
    assert decoded.std() > 10  # a picture, not a grey square


def test_batch_agrees_with_one_by_one(tiny):
    prompts = [PROMPT, "a green star on a black background", "words outside the vocabulary"]
    schedule = tiny.schedule(3)

    def sample(chosen, seeds):
        states = euler_states(tiny, tiny.encode(chosen, 3.0), schedule, seeds, 64)
        return np.stack([tiny.to_numpy(state) for state in states], axis=1)

    together = sample(prompts, [1, 2, 3])
    apart = np.concatenate([sample([p], [s]) for p, s in zip(prompts, [1, 2, 3], strict=True)])
    np.testing.assert_allclose(together, apart, rtol=0, atol=2e-5)


class LinearModel:
    """A model whose exact solution is known: the data is one point, 0.25 everywhere."""

    def __init__(self, fail_at=None):
        self.fail_at, self.open = fail_at, 0

    def initial_latents(self, seeds, image_size, schedule):
        return np.full((len(seeds), 1, 2, 2), 2.0) * schedule.sigma[0]

    def denoiser(self, conditioning, schedule):
        model = self

        class Context:
            def __enter__(self):
                model.open += 1

                def denoise(latents, step):
                    if step == model.fail_at:
                        raise RuntimeError("no")
                    return np.full_like(latents, 0.25)

                return denoise

            def __exit__(self, *error):
                model.open -= 1

        return Context()


def test_euler_follows_a_straight_line_exactly():
    sigma = np.array([1.0, 0.7, 0.4, 0.0], dtype=np.float32)
    states = list(euler_states(LinearModel(), None, Schedule(sigma, sigma * 1000), [0], 16))
    expected = 0.25 + sigma * (2.0 - 0.25)
    np.testing.assert_allclose([state[0, 0, 0, 0] for state in states], expected, rtol=1e-6)


def test_model_is_restored_after_a_failure_and_when_states_are_abandoned():
    schedule = Schedule(np.linspace(1, 0, 5, dtype=np.float32), np.zeros(5, dtype=np.float32))
    failing = LinearModel(fail_at=2)
    with pytest.raises(RuntimeError):
        list(euler_states(failing, None, schedule, [0], 16))
    assert failing.open == 0
    abandoned = LinearModel()
    states = euler_states(abandoned, None, schedule, [0], 16)
    next(states), next(states)
    assert abandoned.open == 1
    states.close()
    assert abandoned.open == 0

import numpy as np

from calibzarr.models import registry


def test_formulas_are_what_the_model_does(tiny):
    entry, schedule = registry.find("tiny"), tiny.schedule(7)
    np.testing.assert_allclose(entry.schedule.sigma(7), schedule.sigma, atol=1e-6)
    np.testing.assert_allclose(entry.schedule.timestep(schedule.sigma), schedule.timestep)
    shape = entry.latent_shape(64)
    assert shape == tiny.latent_shape(64)
    states = tiny.to_numpy(tiny.initial_latents([3, 9], 64, schedule))
    np.testing.assert_array_equal(states, [entry.noise.draw(seed, shape) for seed in (3, 9)])

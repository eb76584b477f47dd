import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibzarr.integrity import trajectory_checks
from calibzarr.models.formulas import NOISE, schedules_of_sampler, sd3_schedule
from calibzarr.sampling.sampler import euler_states

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_noise_of_a_seed_is_told_from_any_other(dtype):
    state = trajectory_checks.first_state(NOISE, 5, (4, 3, 3), 1.0, np.dtype(dtype))
    assert trajectory_checks.is_noise_of(state, NOISE, 5, 1.0)
    assert not trajectory_checks.is_noise_of(state, NOISE, 6, 1.0)
    assert not trajectory_checks.is_noise_of(state, NOISE, 5, 0.99)
    for value in (np.nan, state[0, 0, 0] * 1.01):
        spoilt = state.copy()
        spoilt[0, 0, 0] = value
        assert not trajectory_checks.is_noise_of(spoilt, NOISE, 5, 1.0)
    assert trajectory_checks.seed_of_noise(state, NOISE, 1.0, np.array([9, 5, 5, 1])) == 5
    assert trajectory_checks.seed_of_noise(state, NOISE, 1.0, np.array([9, 1])) is None


@pytest.mark.parametrize("num_steps", [1, 2, 4, 50])
def test_formula_of_the_schedule_is_diffusionkits(tiny, num_steps):
    from calibzarr.models.diffusionkit import kit

    schedule = tiny.schedule(num_steps)
    formulas = schedules_of_sampler(tiny.sampler)
    assert trajectory_checks.schedule_errors(schedule.sigma, schedule.timestep, formulas) == []
    for shift in (1.0, 1.7):
        sampler = kit.sampler.FluxSampler(shift=shift)
        sigma = np.asarray(tiny.pipeline.get_sigmas(sampler, num_steps))
        assert (
            trajectory_checks.schedule_errors(
                sigma, 1000 * sigma, schedules_of_sampler(f"euler(shift={shift})")
            )
            == []
        )
    wrong = schedule.sigma.copy()
    wrong[0] *= 1.001
    assert trajectory_checks.schedule_errors(wrong, 1000 * wrong, formulas)
    assert trajectory_checks.schedule_errors(schedule.sigma, 0.999 * schedule.timestep, formulas)
    assert trajectory_checks.schedule_errors(
        schedule.sigma[::-1], 1000 * schedule.sigma[::-1], schedules_of_sampler("other")
    )


@given(
    st.integers(4, 12),
    st.floats(0.2, 5),
    st.integers(0, 2**32 - 1),
)
def test_turns_are_those_of_the_directions_between_states(num_steps, scale, seed):
    random = np.random.default_rng(seed)
    sigma = np.sort(random.uniform(0.01, 1, num_steps))[::-1]
    sigma = np.append(sigma - np.arange(num_steps) * 1e-3, -0.1).astype(np.float32)
    states = (scale * random.standard_normal((num_steps + 1, 2, 3, 3))).astype(np.float32)
    turns = trajectory_checks.turns(states, sigma)
    d = [
        (b - a) / (t - s) for a, b, s, t in zip(states, states[1:], sigma, sigma[1:], strict=False)
    ]
    for turn, first, second in zip(turns, d, d[1:], strict=False):
        norms = np.linalg.norm(first) + np.linalg.norm(second)
        assert turn == pytest.approx(np.linalg.norm(second - first) / norms, abs=1e-3)


def test_a_straight_path_does_not_turn_and_its_reversal_does():
    sigma = sd3_schedule(3.0).sigma(8).astype(np.float32)
    noise, picture = np.random.default_rng(0).standard_normal((2, 4, 3, 3)).astype(np.float32)
    states = sigma[:, None, None, None] * noise + (1 - sigma[:, None, None, None]) * picture
    assert trajectory_checks.turns(states, sigma).max() < 0.01
    assert (
        trajectory_checks.turns(states[[0, 1, 3, 2, 4, 5, 6, 7, 8]], sigma).max()
        > trajectory_checks.MAX_TURN
    )
    still = np.zeros_like(states)
    assert (trajectory_checks.turns(still, sigma) == 0).all()
    states[4] = 1e30  # its square is no float32
    assert trajectory_checks.turns(states, sigma).max() == 1


@pytest.mark.slow
@pytest.mark.parametrize(("num_steps", "cfg_weight"), [(4, 0.0), (15, 3.0), (20, 4.0), (38, 7.5)])
def test_true_trajectories_are_within_the_bound_and_wrong_ones_beyond(tiny, num_steps, cfg_weight):
    assert trajectory_checks.turns_are_bounded(num_steps, cfg_weight)
    schedule = tiny.schedule(num_steps)
    conditioning = tiny.encode(["a red circle", "a cat"], cfg_weight)
    states = euler_states(tiny, conditioning, schedule, [3, 4], 32)
    one, two = np.stack([tiny.to_numpy(state) for state in states], axis=1)
    for dtype in (np.float32, np.float16):
        own = one.astype(dtype)
        assert trajectory_checks.turns(own, schedule.sigma).max() < 0.9 * trajectory_checks.MAX_TURN
        for step in range(1, num_steps + 1):
            wrong = own.copy()
            wrong[step] = two[step]
            turn = trajectory_checks.turns(wrong, schedule.sigma).max()
            early = np.abs(np.diff(schedule.sigma))[step - 1 : step + 1].max() > 0.15
            assert (
                turn > trajectory_checks.MAX_TURN or early
            )  # there a step is as long as the error


def test_few_steps_with_strong_or_unknown_guidance_are_not_held_to_the_bound(tiny):
    assert not trajectory_checks.turns_are_bounded(37, 7.5)
    assert not trajectory_checks.turns_are_bounded(49, None)
    assert not trajectory_checks.turns_are_bounded(3, 0.0)
    assert trajectory_checks.turns_are_bounded(50, None)
    schedule = tiny.schedule(4)
    states = euler_states(tiny, tiny.encode(["a red circle"], 7.5), schedule, [3], 64)
    true = np.concatenate([tiny.to_numpy(state) for state in states])
    assert trajectory_checks.turns(true, schedule.sigma).max() > trajectory_checks.MAX_TURN

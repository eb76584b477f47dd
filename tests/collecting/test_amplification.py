from contextlib import contextmanager, nullcontext

import numpy as np
import pytest

from calibzarr.collecting.amplification import (
    AMPLIFIED_BITS,
    ERROR_RMS,
    quantizing_by_tensor,
    rollout,
    rollout_calls,
)
from calibzarr.collecting.replay import Batch
from calibzarr.models.base import Layer, Schedule
from calibzarr.quantization.levels import BITS

SIGMA = np.array([1, 0.8, 0.5, 0.2, 0], np.float32)
KEPT = 0.7  # of the latents, by the model
BRIGHTNESS = 0.5


def layer(name, *, text_only=False):
    return Layer(name, name, name, "image", "linear", "input", 3, name, name, "", text_only)


class Linear:
    """A model whose estimate is a share of the latents: what becomes of an error is a product."""

    def __init__(self):
        self.calls = []
        self.transform = None

    def layers(self):
        return (layer("text", text_only=True), layer("image"))

    @contextmanager
    def transforming_inputs(self, transform):
        self.transform = transform
        yield
        self.transform = None

    def denoiser(self, conditioning, schedule, steps=None):
        def denoise(latents, step):
            self.calls.append((step, self.transform is not None))
            return KEPT * (self.transform(1, latents) if self.transform else latents)

        return nullcontext(denoise)

    def from_numpy(self, latents):
        return latents

    def to_numpy(self, latents):
        return np.asarray(latents)

    def picture(self, latents):
        return BRIGHTNESS * latents


def left(step):
    """Share of an error in the state that its energy has at the end, from that state on."""
    falls = 1 + (1 - KEPT) * np.diff(SIGMA) / SIGMA[:-1]
    return np.prod(falls[step:] ** 2)


def batch(model, dtype=np.float32):
    schedule = Schedule(SIGMA, 1000 * SIGMA)
    states = [np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)]
    for step in range(len(SIGMA) - 1):
        states.append(schedule.euler_step(states[-1], KEPT * states[-1], step))
    return Batch(model, schedule, None, (0,), np.stack(states, axis=1).astype(dtype))


RANGES = tuple(np.full((2, len(BITS)), end) for end in (-3.0, 3.0))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_an_error_is_worth_what_the_calls_after_it_leave(step, dtype):
    model = Linear()
    share, gain = rollout(model, batch(model, dtype), step, RANGES)
    assert share == pytest.approx(left(step + 1), rel=1e-4)
    assert gain == pytest.approx(-20 * np.log10(BRIGHTNESS), abs=1e-3)
    assert model.calls[:2] == [(step, False), (step, True)]
    assert [call for call, _ in model.calls[2:]] == [
        *range(step + 1, 4),
        *(range(step + 1, 4) if dtype == np.float16 else ()),
    ]
    if dtype == np.float32:  # what follows from the stored states is stored
        assert len(model.calls) == rollout_calls(4, step)


def test_errors_are_of_one_size_whatever_the_quantizer_makes():
    model = Linear()
    states = batch(model)
    final = states.latents[0, -1].copy()
    states.latents[:, -1] = 0  # so that the last state is told whole
    share, _ = rollout(model, states, 2, RANGES)
    told = np.sqrt(share * ERROR_RMS**2 * final.size)
    assert told == pytest.approx(np.sqrt(np.square(final).sum()), rel=0.05)


def test_all_inputs_are_quantized_but_those_of_text():
    values = np.linspace(-4, 4, 101, dtype=np.float32)
    transform = quantizing_by_tensor(Linear().layers(), RANGES, AMPLIFIED_BITS)
    assert transform(0, values) is values
    scale = 6 / (2**AMPLIFIED_BITS - 1)
    zero = round(3 / scale)
    indices = np.clip(np.round(values / scale) + zero, 0, 2**AMPLIFIED_BITS - 1)
    np.testing.assert_allclose(transform(1, values), scale * (indices - zero), atol=1e-5)

"""Other ways to choose bits, on toy problems whose answers are known otherwise."""

import itertools
import sys

import mlx.core as mx
import numpy as np
import pytest

from tests.support.files import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

from benchmarks.peers import dynamic_quant, greedy_gain, kurtosis
from benchmarks.peers.calibration import GROUP, Calibration

WIDTHS = (2, 3, 4, 5, 6, 8)
SCALES = 32 / GROUP  # bits of a weight


class Quadratic(Calibration):
    """Layers whose error is a constant times the squared error of their weights."""

    def __init__(self, weights, constants):
        self.weights = weights
        self.constants = constants

    def error(self, weights):
        return sum(
            self.constants[module] * float(mx.square(weight - self.weights[module]).sum())
            for module, weight in weights.items()
        )

    def gradient(self, weights):
        return {
            module: 2 * self.constants[module] * (weight - self.weights[module])
            for module, weight in weights.items()
        }


def by_mlx(weight, width):
    rounded = mx.quantize(weight.astype(mx.float16), group_size=GROUP, bits=width)
    rounded = [rounded[0], *(each.astype(mx.float32) for each in rounded[1:])]
    return np.asarray(mx.dequantize(*rounded, group_size=GROUP, bits=width), np.float64)


@pytest.fixture(scope="module")
def toy():
    generator = np.random.default_rng(0)
    names = [f"layer{index}" for index in range(4)]
    weights = {name: mx.array(generator.normal(size=(8, 64)).astype(np.float32)) for name in names}
    return Quadratic(weights, dict(zip(names, (1.0, 30.0, 0.02, 200.0), strict=True)))


@pytest.mark.parametrize("num_high", [1, 2, 3])
def test_two_widths_go_by_gradient_times_difference(toy, num_high):
    expected = {}
    for name, weight in toy.weights.items():
        exact, low, high = (np.asarray(weight), by_mlx(weight, 2), by_mlx(weight, 5))
        expected[name] = toy.constants[name] * ((low - exact) * (low - high)).sum()
    rising = sorted(expected, key=expected.__getitem__)
    bits = dynamic_quant.choose(toy, (2, 5), 2 + 3 * num_high / 4 + SCALES)
    raised = [name for name in rising if bits[name] == 5]
    assert raised == rising[-len(raised) :]
    assert len(raised) in (num_high, num_high + 1)  # it ends beside what was asked


def test_the_best_pair_of_widths_has_the_least_error(toy):
    pairs = [(2, 4), (2, 5), (2, 6), (2, 8)]
    best = dynamic_quant.best(toy, 3 + SCALES)
    errors = [
        toy.error(toy.quantized(dynamic_quant.choose(toy, pair, 3 + SCALES))) for pair in pairs
    ]
    assert toy.error(toy.quantized(best)) == min(errors)


def test_the_error_that_a_layer_alone_makes_is_that_of_mlx(toy):
    measured = greedy_gain.measure(toy)
    for name, weight in toy.weights.items():
        squares = [np.square(by_mlx(weight, width) - np.asarray(weight)).sum() for width in WIDTHS]
        assert [measured[name][width] for width in WIDTHS] == pytest.approx(
            toy.constants[name] * np.array(squares), rel=1e-4
        )


@pytest.mark.parametrize("mean", [2.75, 3.5, 4.25])
def test_greedy_raises_end_at_the_best_choice_of_convex_errors(toy, mean):
    # Equal layers whose errors fall fourfold a bit: no choice of as many bits is better.
    errors = {name: {w: c * 4.0**-w for w in WIDTHS} for name, c in toy.constants.items()}
    found = greedy_gain.choose(toy, errors, mean + SCALES)

    def total(widths):
        return sum(of_layer[w] for of_layer, w in zip(errors.values(), widths, strict=True))

    allowed = [w for w in itertools.product(WIDTHS, repeat=4) if np.mean(w) <= mean]
    assert total(found.values()) == pytest.approx(min(map(total, allowed)))


def test_heavy_tails_get_more_bits():
    generator = np.random.default_rng(0)
    size = (64, 64)
    excess = {  # in closed form
        "signs": (generator.choice([-1.0, 1.0], size), -2.0),
        "even": (generator.uniform(-1, 1, size), -1.2),
        "laplace": (generator.laplace(size=size), 3.0),
        "exponential": (generator.exponential(size=size), 6.0),
    }
    weights = {name: mx.array(values.astype(np.float32)) for name, (values, _) in excess.items()}
    bits = kurtosis.choose(Quadratic(weights, {}), 4 + SCALES)
    assert bits == {name: 5 if known > 0 else 3 for name, (_, known) in excess.items()}

import re
from dataclasses import asdict

import numpy as np
import pytest

from calibzarr.advice import analysis, recommendation
from calibzarr.advice import observed as observations
from calibzarr.advice.choices import CLIPS
from calibzarr.advice.options import Options
from calibzarr.errors import OptionError
from calibzarr.quantization.clipping import clipping_range
from calibzarr.quantization.levels import levels
from tests.support.quantizing import measured

pytestmark = pytest.mark.slow


PHASES = {"early": [0], "mid": [1, 2], "late": [3]}
CHOICES = (2, 4, 6, 8)
LAYERS = [
    "mm_block_1.image.mlp.fc2",
    "mm_block_0.text.attn.o_proj",
    "mm_block_2.image.attn.k_proj",
    "mm_block_3.image.mlp.fc1",
]


@pytest.fixture(scope="module")
def statistics(replayed):
    return analysis.open_statistics(replayed.path)


@pytest.fixture(scope="module")
def observed(statistics):
    return observations.activations(statistics)


@pytest.fixture(scope="module")
def few(statistics):
    """Two blocks: quick, where the options alone matter."""
    return statistics.isel(layer=slice(5, 35))


@pytest.fixture(scope="module")
def recommended(statistics, observed):
    """By options, each computed once."""
    made = {}

    def of(**options):
        asked = Options(**options)
        if asked not in made:
            made[asked] = recommendation.of_statistics(statistics, asked, observed)
        return made[asked]

    return of


def noise(values, clip_min, clip_max, bits, symmetric=False):
    """Squared error of quantizing the values themselves, over their square."""
    error = measured(values, float(clip_min), float(clip_max), int(bits), symmetric)
    return error / np.square(values, dtype=np.float64).mean()


def decibels(values, clip_min, clip_max, bits, symmetric=False):
    """SQNR of quantizing the values themselves."""
    return -10 * np.log10(noise(values, clip_min, clip_max, bits, symmetric))


def best_range(values, bits, symmetric=False):
    """The best of the ranges that thresholds give, a twelfth of an octave apart."""
    low, high = values.min(), values.max()
    thresholds = max(-low, high) * 2.0 ** -np.arange(0, 4, 1 / 12)
    tried = [(max(low, -own), min(high, own)) for own in thresholds]
    return min(tried, key=lambda ends: measured(values, *ends, bits, symmetric))


def needed(reached, target):
    """Fewest bits that reach the target."""
    return next((bits for bits, own in zip(CHOICES, reached, strict=True) if own >= target), 8)


def clear(reached, target):
    """Whether no number of bits comes so near to the target that rounding may decide."""
    return min(abs(own - target) for own in reached) > 0.3


@pytest.mark.parametrize("layer", LAYERS)
def test_every_number_of_a_layer_is_that_of_its_values(
    recommended,
    replayed,
    statistics,
    layer,
):
    target = 26.0
    own = recommended(activation_target=target).sel(layer=layer)
    by_step = replayed.values(layer).astype(np.float64)
    values = by_step.ravel()
    assert own.value_min == values.min()
    assert own.value_max == values.max()
    assert own.value_mean == pytest.approx(values.mean(), rel=1e-6, abs=1e-9)
    assert own.value_std == pytest.approx(values.std(), rel=1e-6)
    size = np.abs(np.quantile(values, [0.01, 0.99])).max()
    assert own.p01 == pytest.approx(np.quantile(values, 0.01), abs=0.01 * size)
    assert own.p99 == pytest.approx(np.quantile(values, 0.99), abs=0.01 * size)

    bits, clip_min, clip_max = int(own.activation_bits), float(own.clip_min), float(own.clip_max)
    best = measured(values, *best_range(values, bits), bits)
    assert measured(values, clip_min, clip_max, bits) <= 1.03 * best
    assert values.min() <= clip_min < clip_max <= values.max()
    assert own.clip_min_fraction == pytest.approx((values < clip_min).mean(), abs=0.002)
    below = 1 if clip_max == values.max() else (values < clip_max).mean()
    assert own.clip_max_fraction == pytest.approx(below, abs=0.002)
    assert own.sqnr_db == pytest.approx(decibels(values, clip_min, clip_max, bits), abs=0.1)

    parts = {name: by_step[:, steps].ravel() for name, steps in PHASES.items()}
    by_phase = {name: decibels(part, clip_min, clip_max, bits) for name, part in parts.items()}
    worst = min(by_phase, key=by_phase.get)
    assert own.worst_sqnr_db == pytest.approx(by_phase[worst], abs=0.1)
    reached = [
        min(decibels(part, *best_range(values, choice), choice) for part in parts.values())
        for choice in CHOICES
    ]
    assert clear(reached, target)
    assert bits == needed(reached, target)
    for name, part in parts.items():
        phase = own.sel(phase=name)
        reached = [decibels(part, *best_range(part, choice), choice) for choice in CHOICES]
        assert phase.phase_bits == needed(reached, target) or not clear(reached, target)
        ends = float(phase.phase_clip_min), float(phase.phase_clip_max)
        own_bits = int(phase.phase_bits)
        assert phase.phase_sqnr_db == pytest.approx(decibels(part, *ends, own_bits), abs=0.1)
        best = measured(part, *best_range(part, own_bits), own_bits)
        assert measured(part, *ends, own_bits) <= 1.03 * best

    weights = [replayed.weights[layer].ravel()]
    if "k_proj" in layer:
        weights += [
            replayed.weights[layer.replace("k_proj", f"{other}_proj")].ravel() for other in "qv"
        ]
    by_weight = [
        [decibels(own, *best_range(own, choice, True), choice, True) for choice in CHOICES]
        for own in weights
    ]
    assert own.weight_bits == max(needed(reached, 20) for reached in by_weight)
    assert own.weight_sqnr_db == pytest.approx(
        by_weight[0][CHOICES.index(int(own.weight_bits))], abs=0.1
    )
    reason = str(own.reason.values)
    assert f"{bits} bits reach {float(own.worst_sqnr_db):.1f} dB" in reason
    assert f"in {worst}, the worst phase" in reason
    assert f"weights: {int(own.weight_bits)} bits reach {float(own.weight_sqnr_db):.1f}" in reason
    module = statistics.module.sel(layer=layer)
    assert str(own.module.values) == str(module.values)


@pytest.mark.parametrize("clip", CLIPS)
def test_sqnr_is_that_of_the_clipping_that_was_asked_for(recommended, replayed, clip):
    result = recommended(clip=clip, activation_target=26.0)
    for layer in LAYERS[:3]:
        own = result.sel(layer=layer)
        values = replayed.values(layer).astype(np.float64).ravel()
        expected = decibels(values, own.clip_min, own.clip_max, own.activation_bits)
        assert own.sqnr_db == pytest.approx(expected, abs=0.15)
        if clip == "minmax":
            extremes = [values.min(), values.max()]
            np.testing.assert_allclose([own.clip_min, own.clip_max], extremes)
            assert (own.clip_min_fraction, own.clip_max_fraction) == (0, 1)


def test_range_is_the_old_rule(recommended, replayed):
    result = recommended(method="range")
    for layer, values in ((name, replayed.values(name)) for name in result.layer.values):
        own, values = result.sel(layer=layer), values.astype(np.float64)
        p01, p99 = np.quantile(values, [0.01, 0.99])
        central, whole = p99 - p01, values.max() - values.min()
        near = [abs(central / limit - 1) < 0.02 for limit in (5, 10)]
        spread = values.std() / central if central else np.inf  # nearly all are 0: padding
        if any(near) or abs(spread - 0.5) < 0.01:
            continue
        bits = 8 if central > 10 else 6 if central > 5 else 4
        bits = min(bits + 2, 8) if spread > 0.5 else bits
        assert own.activation_bits == bits
        assert own.weight_bits == bits
        assert f": {bits} bits" in str(own.reason.values)
        if abs(central / whole - 0.9) < 0.02:
            continue
        clips = central / whole < 0.9
        ends = (p01, p99) if clips else (values.min(), values.max())
        scale = np.abs([p01, p99]).max()
        np.testing.assert_allclose([own.clip_min, own.clip_max], ends, atol=0.01 * scale)
        assert own.clip_min_fraction == (0.01 if clips else 0)
        assert own.clip_max_fraction == (0.99 if clips else 1)
        assert ("clipped there" in str(own.reason.values)) == clips


def linear(result):
    return result.role.values == "input"


def mean_bits(result, statistics, name="activation_bits"):
    """Over observed activations."""
    number = statistics.value_count.values.sum(axis=1)
    bits, inputs = result[name].values, linear(result)
    return float((bits * number)[inputs].sum() / number[inputs].sum())


def total_noise(result, replayed, images, ranges=None):
    """Measured by quantizing every linear layer's input, weighted by multiply-accumulates."""
    total = 0.0
    for row in np.flatnonzero(linear(result)):
        layer = str(result.layer.values[row])
        values = replayed.values(layer, images=images).astype(np.float64)
        weight = replayed.weights[layer]
        ends = (
            (result.clip_min.values[row], result.clip_max.values[row])
            if ranges is None
            else (ranges[0][row], ranges[1][row])
        )
        own = levels(*(np.array(end) for end in ends), result.activation_bits.values[row])
        error = np.square(values - own.quantize(values)).sum() / np.square(values).sum()
        total += values.size / values.shape[-1] * weight.size * error
    return total


@pytest.mark.parametrize("images", [range(5), range(5, 7)])
def test_budget_makes_less_noise_than_range_at_the_same_bits(
    recommended,
    replayed,
    statistics,
    observed,
    images,
):
    """On the images that were collected, and on others."""
    old = recommended(method="range")
    mean = mean_bits(old, statistics)
    new = recommended(method="budget", mean_bits=mean)
    assert mean_bits(new, statistics) <= mean * (1 + 1e-9)
    measured_noise = total_noise(new, replayed, images)
    assert measured_noise < total_noise(old, replayed, images)
    # Also where the old bits get the new way of clipping.
    low, high = (
        ends[np.arange(len(ends)), np.searchsorted(CHOICES, old.activation_bits.values)]
        for ends in clipping_range("mse", observed.overall, CHOICES)
    )
    assert measured_noise < total_noise(old, replayed, images, (low, high))


def test_budget_keeps_the_mean_and_uses_it(recommended, statistics):
    previous = np.inf
    for mean in (4.0, 5.0):
        result = recommended(method="budget", mean_bits=mean)
        assert mean - 0.5 < mean_bits(result, statistics) <= mean * (1 + 1e-9)
        inputs = linear(result)
        weights = statistics.weight_histogram.values.sum(axis=1)[inputs]
        assert (result.weight_bits.values[inputs] * weights).sum() <= mean * weights.sum() * (
            1 + 1e-9
        )
        error = 10 ** (-result.sqnr_db.values[inputs] / 10)
        operations = statistics.value_count.values.sum(axis=1)[inputs] * weights
        total = (operations / statistics.features.values[inputs] * error).sum()
        assert total < previous
        previous = total
        by_phase = (result.phase_bits.values * phase_values(statistics))[inputs].sum()
        assert by_phase <= mean * phase_values(statistics)[inputs].sum() * (1 + 1e-9)
        assert f"a mean of {mean:g} bits" in str(result.reason.values[3])


def phase_values(statistics):
    count = statistics.value_count.values
    return np.stack([count[:, steps].sum(axis=1) for steps in PHASES.values()], axis=1)


@pytest.mark.parametrize(
    "options",
    [{"activation_target": 26.0}, {"method": "budget", "mean_bits": 5.0}, {"method": "range"}],
)
def test_projections_are_tied_and_a_block_speaks_for_its_layers(recommended, options):
    result = recommended(**options)
    bits = dict(zip(result.layer.values.astype(str), result.activation_bits.values, strict=True))
    weight_bits = dict(zip(bits, result.weight_bits.values, strict=True))
    by_phase = dict(zip(bits, result.phase_bits.values.tolist(), strict=True))
    for name in bits:
        if name.endswith(".q_proj"):
            others = [name.replace("q_proj", f"{other}_proj") for other in "kv"]
            assert {bits[name]} == {bits[other] for other in others}
            assert {weight_bits[name]} == {weight_bits[other] for other in others}
            assert by_phase[name] == by_phase[others[0]] == by_phase[others[1]]
    if options.get("method") == "range":
        return
    for name, role in zip(bits, result.role.values, strict=True):
        if role == "input":
            continue
        inside = [
            other
            for other, own in zip(bits, result.role.values, strict=True)
            if other.startswith(f"{name}.") and own == "input"
        ]
        assert len(inside) >= 5
        most = max(bits[other] for other in inside)
        assert bits[name] == most or ("activation_target" in options and bits[name] > most)
        assert weight_bits[name] == max(weight_bits[other] for other in inside)
    assert any(role == "output" for role in result.role.values)


def test_phases_are_the_thirds_of_the_sampling(recommended):
    result = recommended(method="range")
    assert result.phase.values.tolist() == list(PHASES)
    assert result.first_step.values.tolist() == [0, 1, 3]
    assert result.end_step.values.tolist() == [1, 3, 4]
    assert result.num_collected.values.tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    "options", [{}, {"method": "budget", "mean_bits": 5.0}, {"method": "range"}]
)
def test_phase_without_a_collected_step_gets_nothing(few, options):
    result = recommendation.of_statistics(few.isel(step=[0, 3]), Options(**options))
    assert result.num_collected.values.tolist() == [1, 0, 1]
    assert (result.phase_bits.sel(phase="mid") == 0).all()
    for name in ("phase_clip_min", "phase_clip_max", "phase_sqnr_db"):
        assert result[name].sel(phase="mid").isnull().all()
        assert result[name].sel(phase=["early", "late"]).notnull().all()
    assert (result.phase_bits.sel(phase=["early", "late"]) >= 2).all()
    assert result.clip_max.notnull().all()
    assert result.worst_sqnr_db.notnull().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "method must be one of budget, range, sqnr, got 'magic'"),
        ({"clip": "median"}, "clip must be one of mse, lp, minmax, got 'median'"),
        ({"method": "budget"}, "the method budget needs mean_bits; give it"),
        ({"mean_bits": 4.0}, "mean_bits is nothing to the method sqnr; leave it out"),
        ({"method": "budget", "mean_bits": 1.0}, "mean_bits must be 2 or more"),
        ({"activation_target": 90.0}, "no layer reaches activation_target 90 dB"),
        ({"weight_target": 90.0}, "no layer reaches weight_target 90 dB"),
    ],
)
def test_wrong_options_are_refused(few, options, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        recommendation.of_statistics(few, Options(**options))


def test_best_reachable_of_the_message_is_reached(few):
    with pytest.raises(OptionError) as refused:
        recommendation.of_statistics(few, Options(activation_target=90.0))
    best = float(re.search(r"best reachable is ([\d.]+) dB", str(refused.value))[1])
    result = recommendation.of_statistics(few, Options(activation_target=best - 0.05))
    assert (result.worst_sqnr_db.values[linear(result)] >= best - 0.05).sum() >= 1
    assert result.reason.str.contains("short of").any()


def test_recommending_from_a_path_is_the_same(recommended, replayed):
    actual = recommendation.recommend(replayed.path, method="range")
    assert actual.drop_attrs().identical(recommended(method="range").drop_attrs())
    assert actual.attrs["options"] == asdict(Options(method="range"))

import re
from itertools import combinations, product

import numpy as np
import pytest
import xarray as xr

from calibzarr.advice import analysis, observed
from calibzarr.quantization.clipping import best_clipping
from tests.support.files import EXAMPLE
from tests.support.quantizing import measured, quantized, searched
from tests.support.replaying import dump

LAYERS = [
    "mm_block_1.image.mlp.fc2",
    "mm_block_0.image.attn.q_proj",
    "mm_block_2.text.mlp.fc1",
    "mm_block_1.text",
    "mm_block_3",
]


@pytest.fixture(scope="module")
def statistics(replayed):
    return analysis.open_statistics(replayed.path)


@pytest.fixture(scope="module")
def analyzed(replayed):
    return analysis.analyze(replayed.path)


def test_the_values_of_the_tests_are_those_that_were_collected(replayed, statistics):
    assert set(replayed.dumped) == set(statistics.layer.values)
    for index, layer in enumerate(statistics.layer.values):
        values = replayed.values(layer)
        assert statistics.value_count.values[index].sum() == values.size
        np.testing.assert_array_equal(statistics.value_max.values[index], values.max((0, 2, 3)))


def decibels(values, error):
    return 10 * np.log10(np.square(values, dtype=np.float64).mean() / error)


def best_sqnr(values, symmetric=False):
    """By bits, of a search on the values themselves; one threshold in fifteen an octave."""
    values = values.ravel()
    reach = np.abs(values).max()
    return np.array(
        [
            max(
                decibels(values, searched(values, bits, symmetric, reach * 2.0**-octave))
                for octave in (0.5, 1.5)
            )
            for bits in (4, 6, 8)
        ]
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_every_figure_of_a_layer_is_that_of_its_values(analyzed, replayed, layer):
    own, values = analyzed.sel(layer=layer), replayed.values(layer).astype(np.float64)
    by_step = values.max((0, 2, 3)) - values.min((0, 2, 3))
    np.testing.assert_allclose(own.step_range, by_step, rtol=1e-6)
    assert own.value_range == pytest.approx(values.max() - values.min())
    p01, p99 = np.quantile(values, [0.01, 0.99])
    size = max(abs(p01), abs(p99))
    assert own.central_range == pytest.approx(p99 - p01, abs=0.01 * size)
    assert own.outlier_ratio == pytest.approx(
        (values.max() - values.min()) / (p99 - p01), rel=0.015
    )
    assert own.sigma_variation == pytest.approx(by_step.max() / by_step.min(), rel=1e-5)
    assert own.asymmetry == pytest.approx((p01 + p99) / (abs(p01) + abs(p99)), abs=0.01)

    ranges = values.max((0, 1, 2)) - values.min((0, 1, 2))
    assert own.feature_spread == pytest.approx(ranges.max() / np.median(ranges[ranges > 0]))
    assert own.widest_feature == ranges.argmax()
    assert bool(own.post_gelu) == layer.endswith("fc2")
    assert bool(own.post_gelu) == (values.min() > -0.1701)  # the least that a GELU gives

    growth, mean_error = [], []
    for step in range(4):
        low, high = values[:, step].min((1, 2)), values[:, step].max((1, 2))
        half = np.mean(
            [  # between two and three of five images
                np.mean([extreme(list(chosen)) for chosen in combinations(each, size)])
                for size in (2, 3)
                for each, extreme in ((high, max), (-low, max))
            ]
        )
        growth.append((high.max() - low.min()) / (2 * half) - 1)
        means = values[:, step].mean((1, 2))
        mean_error.append(means.std(ddof=1) / np.sqrt(5) / values[:, step].std())
    assert own.range_growth == pytest.approx(max(growth), rel=1e-4, abs=1e-6)
    assert own.mean_error == pytest.approx(max(mean_error), rel=1e-3)

    reached = own.sqnr_db.sel(bits=[4, 6, 8]).values - best_sqnr(values)
    # At 8 bits the best threshold of all is where a level falls on the end of a GELU.
    assert (np.abs(reached) <= [0.1, 0.1, 0.3 if own.post_gelu else 0.1]).all()
    assert (np.diff(own.sqnr_db) > 0).all()
    weight = replayed.weights[layer]
    if weight is None:
        assert own.weight_sqnr_db.isnull().all()
    else:
        np.testing.assert_allclose(
            own.weight_sqnr_db.sel(bits=[4, 6, 8]), best_sqnr(weight, True), atol=0.1
        )


@pytest.mark.parametrize("layer", LAYERS[:4])
def test_error_at_a_step_is_that_of_its_values(analyzed, replayed, statistics, layer):
    bits, row = (4, 6, 8), list(statistics.layer.values).index(layer)
    activations = observed.activations(statistics)
    for step in range(4):
        values = replayed.values(layer)[:, step].ravel().astype(np.float64)
        actual = analyzed.step_sqnr_db.sel(layer=layer, step=step, bits=list(bits))
        found = best_clipping(activations.at(row).at(step), bits)
        ends = zip(found.clip_min, found.clip_max, bits, strict=True)
        real = [decibels(values, measured(values, *each)) for each in ends]
        np.testing.assert_allclose(actual, real, atol=0.1)
        assert (actual.values >= best_sqnr(values.astype(np.float32)) - 0.1).all()


@pytest.mark.slow
def test_expected_error_of_real_activations_is_that_of_quantizing_them(tiny):
    """Of every layer and number of bits, unclipped and clipped at percentiles.

    Few different values have no density: the error of ``n`` evenly spread ones is itself uncertain
    by ``sqrt(4 / 5 / n)``, of which 4.5 times are allowed. Those are inputs of the embedders and
    of modulations, of one token.
    """
    statistics = analysis.open_statistics(EXAMPLE)
    steps = statistics.step.values.tolist()
    dumped = dump(EXAMPLE, tiny, statistics.attrs["num_steps"], steps)
    overall = observed.activations(statistics.drop_vars("cached_observed")).overall
    number, many = np.array([4, 5, 6, 7, 8]), 0
    for row, layer in enumerate(statistics.layer.values.astype(str)):
        parts = [np.unique(own, return_counts=True) for own in dumped[layer].values()]
        values, place = np.unique(np.concatenate([own for own, _ in parts]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([own for _, own in parts]))
        assert counts.sum() == overall.counts[row].sum()
        ends = values[[0, -1]].astype(np.float64)
        places = np.searchsorted(
            counts.cumsum(), counts.sum() * np.array([0.001, 0.01, 0.99, 0.999])
        )
        tails = values[places].astype(np.float64)
        tolerance = max(0.02, 4 / np.sqrt(len(values)))
        many += tolerance == 0.02
        for clip, symmetric in product((ends, tails[[0, 3]], tails[[1, 2]]), (False, True)):
            real = [
                np.average(
                    (values - quantized(values.astype(np.float64), *clip, bits, symmetric)) ** 2,
                    weights=counts,
                )
                for bits in number
            ]
            error = overall.at(row).error(*clip, number, symmetric=symmetric)
            np.testing.assert_allclose(error, real, rtol=tolerance, err_msg=layer)
    assert many > 50


def test_layers_are_described_with_their_coordinates(analyzed, statistics):
    assert analyzed.sizes == {"layer": statistics.sizes["layer"], "step": 4, "bits": 7}
    for name in ("layer", "module", "block", "stream", "kind", "role", "features"):
        np.testing.assert_array_equal(analyzed[name], statistics[name])
    np.testing.assert_array_equal(analyzed.sigma, statistics.sigma)
    assert analyzed.bits.values.tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert analyzed.attrs["model"] == "tiny"


def test_only_collected_steps_and_images_are_opened(statistics, replayed):
    assert statistics.step.values.tolist() == [0, 1, 2, 3]
    assert statistics.sizes["image"] == 5
    stored = xr.open_zarr(replayed.path)
    assert stored.sizes["image"] == 7
    np.testing.assert_array_equal(statistics.value_max, stored.value_max)


def test_layers_that_read_one_array_share_a_number(statistics):
    shared = analysis.shared_inputs(statistics)
    assert shared.shape == (statistics.sizes["layer"],)
    names = statistics.layer.values.astype(str)
    projection = re.compile(r"(.*)\.attn\.[qkv]_proj")
    groups = [
        f"{match[1]}.attn" if (match := projection.fullmatch(name)) else name for name in names
    ]
    adaptive = np.char.find(names, "adaLN") >= 0  # all read the same conditioning
    for first, second in combinations(np.flatnonzero(~adaptive), 2):
        assert (shared[first] == shared[second]) == (groups[first] == groups[second]), (
            names[first],
            names[second],
        )

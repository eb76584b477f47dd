import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibzarr.quantization.clipping import best_clipping
from calibzarr.quantization.expected_error import bin_errors, mean_power
from calibzarr.quantization.levels import BITS, levels
from calibzarr.statistics.histogram import LogBins
from tests.support.quantizing import histograms, in_observed, measured, quantized, searched

BINS = LogBins()
TOLERANCE = 0.02  # of an error: 0.1 dB


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def distributions(size):
    generator = np.random.default_rng(0)
    normal = generator.standard_normal(size)
    raw = {
        "normal": normal,
        "heavy-tailed": 30 * generator.standard_t(2.5, size),
        "less heavy-tailed": generator.standard_t(4, size),
        "post-GELU": gelu(normal),
        "wide post-GELU": gelu(3 * normal),
        "Laplace": generator.laplace(size=size),
        "uniform": generator.uniform(-1.01, 1.3, size),
        "outliers": np.append(normal, [60.0, -45.0, 80.0]),
        "positive": np.abs(normal),
        "negative": -(np.abs(normal) ** 1.5),
        "small": 1e-3 * normal,
        "large": 1e6 * normal,
    }
    return {name: values.astype(np.float32) for name, values in raw.items()}


LARGE = distributions(200_000)
SMALL = distributions(40_000)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", LARGE)
def test_expected_error_is_that_of_quantizing_the_values(name, symmetric):
    values = LARGE[name]
    counts, low, high = BINS.counts(values), values.min().astype(float), values.max().astype(float)
    ranges = [(low, high), *(np.quantile(values, [tail, 1 - tail]) for tail in (0.001, 0.01))]
    bits = np.array([4, 6, 8])
    for p in (2, 2.4):
        one = histograms(counts, BINS, low, high)
        best = best_clipping(one, tuple(bits), symmetric=symmetric, p=p)
        rows = [(*np.asarray(own, float), number) for own in ranges for number in bits]
        rows += list(zip(*in_observed(best, values), bits, strict=True))
        own = np.array(rows).T
        many = histograms(
            np.broadcast_to(counts, (len(rows), BINS.count)),
            BINS,
            np.full(len(rows), low),
            np.full(len(rows), high),
        )
        actual = many.error(own[0], own[1], own[2].astype(int), symmetric=symmetric, p=p)
        expected = [measured(values, *row, symmetric, p) for row in rows]
        np.testing.assert_allclose(actual, expected, rtol=TOLERANCE)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_best_clipping_is_as_good_as_a_fine_search_of_the_values(name, symmetric):
    values = SMALL[name]
    low, high = values.min().astype(float), values.max().astype(float)
    one = histograms(BINS.counts(values), BINS, low, high)
    found = best_clipping(one, BITS, symmetric=symmetric)
    ends = np.transpose(in_observed(found, values))
    for number, (clip_min, clip_max) in zip(BITS, ends, strict=True):
        own = measured(values, clip_min, clip_max, number, symmetric)
        best = searched(values, number, symmetric, max(-clip_min, clip_max))
        few = name == "uniform" and number < 4  # its values end abruptly
        assert own <= best * (1 + (0.12 if few else TOLERANCE)), number


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", LARGE)
def test_best_clippings_error_is_that_of_its_range(name, symmetric):
    values = LARGE[name]
    low, high = values.min().astype(float), values.max().astype(float)
    one = histograms(BINS.counts(values), BINS, low, high)
    found = best_clipping(one, (4, 6, 8), symmetric=symmetric)
    expected = [
        measured(values, *ends, bits, symmetric)
        for *ends, bits in zip(*in_observed(found, values), (4, 6, 8), strict=True)
    ]
    np.testing.assert_allclose(found.error, expected, rtol=TOLERANCE)


def test_more_bits_err_less_on_smooth_values():
    for values in LARGE.values():
        counts = np.broadcast_to(BINS.counts(values), (7, BINS.count))
        low, high = np.full(7, values.min(), float), np.full(7, values.max(), float)
        rows = histograms(counts, BINS, low, high)
        for symmetric in (False, True):
            errors = rows.error(low, high, np.array(BITS), symmetric=symmetric)
            assert (np.diff(errors) < 0).all()
            best = best_clipping(rows.at(0), BITS, symmetric=symmetric).error
            assert (np.diff(best) < 0).all()
            assert (best <= errors * (1 + TOLERANCE)).all()


SMALL_BINS = LogBins(-3, 3)
COUNTS = hnp.arrays(np.int64, SMALL_BINS.count, elements=st.integers(0, 5), fill=st.just(0))
# Bins without an end hold values of which only one end is known.
CLOSED = COUNTS.map(lambda counts: np.concatenate([[0], counts[1:-1], [0]]))
CLIPS = st.floats(0.01, 20)
NUMBERS = st.sampled_from(BITS)
EXPONENTS = st.sampled_from([1, 2, 2.4, 4])


@given(COUNTS, CLIPS, CLIPS, NUMBERS, st.booleans(), EXPONENTS)
def test_error_is_0_or_more_and_not_a_number_only_without_values(
    counts, below, above, bits, symmetric, p
):
    rows = histograms(counts, SMALL_BINS)
    error = rows.error(-np.array(below), np.array(above), bits, symmetric=symmetric, p=p)
    assert error >= 0 if counts.any() else np.isnan(error)


@given(CLOSED, NUMBERS, st.booleans(), EXPONENTS)
def test_error_of_an_unclipped_range_is_at_most_that_of_half_a_step(counts, bits, symmetric, p):
    filled = np.flatnonzero(counts)
    if not len(filled):
        return
    low = np.array(SMALL_BINS.low[filled[0]])
    high = np.array(SMALL_BINS.high[filled[-1]])
    own = levels(low, high, np.array(bits), symmetric=symmetric)
    error = histograms(counts, SMALL_BINS).error(low, high, bits, symmetric=symmetric, p=p)
    assert error <= (own.step_size / 2) ** p * (1 + 1e-9)


@given(CLOSED, CLIPS, CLIPS, NUMBERS, st.booleans(), EXPONENTS, st.integers(-8, 8))
def test_twice_the_values_and_the_range_make_twice_the_error(
    counts, below, above, bits, symmetric, p, octaves
):
    wide = LogBins(-3 + octaves, 3 + octaves)
    clip = np.array(-below), np.array(above)
    error = histograms(counts, SMALL_BINS).error(*clip, bits, symmetric=symmetric, p=p)
    scaled = histograms(counts, wide).error(
        *(2.0**octaves * end for end in clip), bits, symmetric=symmetric, p=p
    )
    np.testing.assert_allclose(scaled, 2.0 ** (octaves * p) * error, rtol=1e-9, atol=1e-15)


@given(COUNTS, CLIPS, CLIPS, NUMBERS, EXPONENTS)
def test_mirrored_values_err_the_same_on_symmetric_levels(counts, below, above, bits, p):
    error = histograms(counts, SMALL_BINS).error(
        np.array(-below), np.array(above), bits, symmetric=True, p=p
    )
    mirrored = histograms(counts[::-1], SMALL_BINS).error(
        np.array(-above), np.array(below), bits, symmetric=True, p=p
    )
    np.testing.assert_allclose(mirrored, error, rtol=1e-9, atol=1e-15)


@given(CLIPS, CLIPS, NUMBERS, st.booleans(), EXPONENTS)
def test_error_of_a_bin_is_the_mean_over_it(below, above, bits, symmetric, p):
    own = levels(np.array(-below), np.array(above), np.array(bits), symmetric=symmetric)
    edges = np.concatenate([np.linspace(-25, 25, 41), [30.0]])
    actual = bin_errors(edges, own, p)
    width = np.diff(edges)[:, None]
    inside = edges[:-1, None] + width * (np.arange(4000) + 0.5) / 4000
    errors = np.abs(inside - quantized(inside, -below, above, bits, symmetric)) ** p
    np.testing.assert_allclose(actual, errors.mean(axis=1), rtol=1e-3, atol=1e-5)


def test_no_value_is_taken_to_be_beyond_the_known_extremes():
    """Where it is not known that all values of a bin are 5, they are spread over it."""
    counts = BINS.counts(np.array([5.0, 5.0, -1.0], dtype=np.float32))
    clip = np.array(-1.0), np.array(5.0)
    known = histograms(counts, BINS, *clip).error(*clip, 4)
    assert known == pytest.approx(measured(np.array([5.0, 5.0, -1.0]), *clip, 4), abs=1e-6)
    assert histograms(counts, BINS).error(*clip, 4) > known + 1e-4


def test_rows_have_nothing_to_do_with_each_other():
    values = list(LARGE.values())
    counts = np.stack([BINS.counts(own) for own in values])
    low = np.array([own.min() for own in values])
    high = np.array([own.max() for own in values])
    rows = histograms(counts, BINS, low, high)
    for symmetric in (False, True):
        together = best_clipping(rows, BITS, symmetric=symmetric)
        for row in range(len(values)):
            alone = best_clipping(rows.at(row), BITS, symmetric=symmetric)
            for name, expected in vars(alone).items():
                assert expected.shape == (len(BITS),)
                np.testing.assert_allclose(vars(together)[name][row], expected, rtol=1e-5)
    shaped = best_clipping(
        histograms(counts.reshape(3, 4, -1), BINS, low.reshape(3, 4), high.reshape(3, 4)),
        (4,),
        symmetric=True,
    )
    np.testing.assert_allclose(
        shaped.clip_max.reshape(-1), together.clip_max[:, BITS.index(4)], rtol=1e-5
    )


def test_expected_errors_of_many_rows_are_those_of_each():
    generator = np.random.default_rng(0)
    counts = generator.integers(0, 3, (5, 40, SMALL_BINS.count))
    clip = generator.random((2, 5, 40)) * 8
    bits = generator.integers(2, 9, (5, 40))
    together = histograms(counts, SMALL_BINS).error(-clip[0], clip[1], bits)
    for index in [(0, 0), (2, 7), (4, 39)]:
        one = histograms(counts[index], SMALL_BINS)
        alone = one.error(-clip[0][index], clip[1][index], bits[index])
        np.testing.assert_allclose(together[index], alone, rtol=1e-12)


def test_what_was_not_counted_has_neither_range_nor_error():
    counts = np.stack([np.zeros(BINS.count, dtype=int), BINS.counts(LARGE["normal"])])
    low, high = np.array([np.nan, -5.0]), np.array([np.nan, 5.0])
    rows = histograms(counts, BINS, low, high)
    found = best_clipping(rows)
    for own in vars(found).values():
        assert np.isnan(own[0]).all()
        assert np.isfinite(own[1]).all()
    assert np.isnan(mean_power(counts, BINS)[0])
    assert np.isnan(rows.error(low, high, np.array(8))[0])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        np.full(100, 0.3),
        np.full(100, -7.0),
        np.zeros(10),
        np.arange(1.0, 100),
        -np.arange(1.0, 100),
        2.0**30 * np.arange(-99.0, 100),
        2.0**-30 * np.arange(-99.0, 100),
        np.array([5.0]),
        np.array([-1.0, 1.0]),
    ],
)
def test_unusual_values_get_an_ordered_range_near_them(values, symmetric):
    values = values.astype(np.float32)
    low, high = values.min().astype(float), values.max().astype(float)
    one = histograms(BINS.counts(values), BINS, low, high)
    found = best_clipping(one, BITS, symmetric=symmetric)
    assert (found.clip_min <= found.clip_max).all()
    assert (found.error >= 0).all()
    assert (found.clip_min >= min(low, 0)).all()
    assert (found.clip_max <= max(high, 0)).all()


@pytest.mark.parametrize("value", [0.3, -7.0, 1000.0, 0.0, 2.0**-30])
def test_a_constant_is_quantized_exactly(value):
    values = np.full(100, value, dtype=np.float32)
    low, high = values.min().astype(float), values.max().astype(float)
    found = best_clipping(histograms(BINS.counts(values), BINS, low, high))
    own = [
        measured(values, *ends, bits)
        for *ends, bits in zip(found.clip_min, found.clip_max, BITS, strict=True)
    ]
    assert (np.array(own) <= (1e-6 * value) ** 2).all()
    assert (found.error <= (1e-6 * value) ** 2).all()


def test_power_is_that_of_the_values():
    for values in LARGE.values():
        expected = np.square(values, dtype=np.float64).mean()
        np.testing.assert_allclose(mean_power(BINS.counts(values), BINS), expected, rtol=0.005)

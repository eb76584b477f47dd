import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibzarr.statistics.histogram import LogBins, fraction_below, quantile, representative

BINS = LogBins()
FRACTIONS = np.array([0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999])


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def distributions():
    generator = np.random.default_rng(0)
    normal = generator.standard_normal(200_000)
    return {
        "normal": normal,
        "skewed": gelu(3 * normal),
        "heavy-tailed": 30 * generator.standard_t(2.5, 200_000),
        "constant": np.full(1000, 0.3),
        "zero": np.zeros(1000),
        "tiny": 1e-7 * normal,
        "far from zero": 500 + normal,
        "huge": 1e6 * normal,
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", distributions())
def test_quantiles_agree_with_numpy_on_the_raw_values(name, dtype):
    values = distributions()[name].astype(np.float32)
    values = values.clip(-60_000, 60_000) if dtype == np.float16 else values
    values = values.astype(dtype).astype(np.float32)
    counts = BINS.counts(values)
    assert counts.sum() == values.size
    actual = quantile(counts, BINS.low, BINS.high, FRACTIONS)
    expected = np.quantile(values.astype(np.float64), FRACTIONS)
    zero_bin = BINS.high[BINS.per_sign] - BINS.low[BINS.per_sign]
    np.testing.assert_allclose(actual, expected, rtol=0.01, atol=zero_bin)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(hnp.arrays(np.float32, st.integers(1, 300), elements=finite))
def test_counts_equal_a_comparison_with_every_edge(values):
    counts = BINS.counts(values)
    inside = (values[:, None] >= BINS.low) & (values[:, None] < BINS.high)
    negative = (values[:, None] > BINS.low) & (values[:, None] <= BINS.high)
    # A bin holds the edge that is nearer to zero; the one around zero holds neither.
    expected = np.where(values[:, None] < 0, negative, inside)
    expected[:, BINS.per_sign] = np.abs(values) < BINS.high[BINS.per_sign]
    np.testing.assert_array_equal(counts, expected.sum(axis=0))


def test_many_values_are_counted_as_few_are():
    values = np.random.default_rng(1).standard_t(2, 1 << 17).astype(np.float32)
    parts = sum(BINS.counts(part) for part in np.split(values, 16))
    np.testing.assert_array_equal(BINS.counts(values), parts)


def test_edges_are_symmetric_increasing_and_open():
    assert len(BINS.low) == len(BINS.high) == BINS.count
    np.testing.assert_array_equal(BINS.low[1:], BINS.high[:-1])
    np.testing.assert_array_equal(BINS.low, -BINS.high[::-1])
    assert (np.diff(BINS.high) > 0).all()
    assert (BINS.low[0], BINS.high[-1]) == (-np.inf, np.inf)
    positive = slice(BINS.per_sign + 1, -1)
    width = BINS.high[positive] / BINS.low[positive] - 1
    assert width.max() <= 2**-BINS.mantissa_bits
    middle = representative(BINS.low, BINS.high)
    assert np.isfinite(middle).all()
    assert middle[BINS.per_sign] == 0


@given(
    hnp.arrays(np.int64, st.tuples(st.integers(1, 4), st.just(130)), elements=st.integers(0, 3)),
    st.lists(st.floats(0, 1), min_size=1, max_size=4),
)
def test_quantile_is_numpys_on_the_representatives(counts, fractions):
    low = np.arange(130.0)
    actual = quantile(counts, low, low + 1, fractions)
    for row, result in zip(counts, actual, strict=True):
        values = np.repeat(low + 0.5, row)
        if len(values):
            np.testing.assert_allclose(result, np.quantile(values, fractions), atol=1e-9)
        else:
            assert np.isnan(result).all()


def test_quantile_keeps_leading_dimensions():
    counts = np.ones((3, 4, BINS.count), dtype=np.int64)
    assert quantile(counts, BINS.low, BINS.high, 0.5).shape == (3, 4)
    assert quantile(counts, BINS.low, BINS.high, [0.1, 0.5]).shape == (3, 4, 2)
    assert (quantile(counts, BINS.low, BINS.high, 0.5) == 0).all()


@pytest.mark.parametrize("q", [-0.1, 1.1, np.nan, [0.5, 50]])
def test_fractions_outside_of_0_to_1_are_refused(q):
    with pytest.raises(ValueError, match=r"fractions in \[0, 1\]"):
        quantile(np.ones(BINS.count, dtype=int), BINS.low, BINS.high, q)


def test_counts_of_other_bins_are_refused():
    with pytest.raises(ValueError, match=f"3 bins, but the edges {BINS.count}"):
        quantile(np.ones(3, dtype=int), BINS.low, BINS.high, 0.5)


@pytest.mark.parametrize("name", distributions())
def test_fraction_below_agrees_with_numpy_on_the_raw_values(name):
    values = distributions()[name].astype(np.float32)
    counts = BINS.counts(values)
    limits = np.unique([*np.quantile(values.astype(float), FRACTIONS), -1.0, 0.1, 2.0, 600.0])
    actual = fraction_below(
        np.broadcast_to(counts, (len(limits), BINS.count)), BINS.low, BINS.high, limits
    )
    # Off by no more than what stands in the same bin.
    width = 0.016 * np.abs(limits) + BINS.high[BINS.per_sign] * 2
    least, most = (
        (values.astype(float) < (limits + side * width)[:, None]).mean(axis=1) for side in (-1, 1)
    )
    assert (least - 1e-12 <= actual).all()
    assert (actual <= most + 1e-12).all()
    assert (np.diff(actual) >= 0).all()
    if name in ("normal", "heavy-tailed"):
        expected = (values < limits[:, None]).mean(axis=1)
        np.testing.assert_allclose(actual, expected, atol=0.002)


@given(
    hnp.arrays(np.int64, st.tuples(st.integers(1, 4), st.just(12)), elements=st.integers(0, 3)),
    st.floats(-3, 15),
)
def test_fraction_below_spreads_the_values_of_a_bin_evenly(counts, value):
    low = np.arange(12.0)
    actual = fraction_below(counts, low, low + 1, np.full(len(counts), value))
    for row, result in zip(counts, actual, strict=True):
        if row.sum():
            below = np.interp(value, np.arange(13.0), np.append(0, row.cumsum()))
            assert result == pytest.approx(below / row.sum(), abs=1e-12)
        else:
            assert np.isnan(result)


def test_fraction_below_beyond_the_grid_is_nothing_or_all():
    values = np.array([-1e30, -1.0, 0.0, 1.0, 1e30], dtype=np.float32)
    counts = BINS.counts(values)
    for value, expected in [(-np.inf, 0), (-3e7, 0), (-100, 0.2), (100, 0.8), (np.inf, 1)]:
        assert fraction_below(counts, BINS.low, BINS.high, np.array(value)) == expected
    assert np.isnan(fraction_below(counts, BINS.low, BINS.high, np.array(np.nan)))
    assert np.isnan(fraction_below(0 * counts, BINS.low, BINS.high, np.array(1.0)))

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibzarr.quantization.levels import BITS
from calibzarr.quantization.quantizers import (
    ACTIVATION_QUANTIZERS,
    MLX_BITS,
    MLX_GROUPS,
    QUANTIZERS,
    WEIGHT_QUANTIZERS,
    Quantizer,
    affine,
    quantized_by_group,
    quantized_by_scale,
    quantized_by_tensor,
    quantized_by_token,
    weight_scales,
)
from tests.support.quantizing import quantized

SEEDS = st.integers(0, 2**32 - 1)
RANGE = st.integers(-900, 900).map(lambda hundredths: hundredths / 100)


def values(seed, *shape):
    generator = np.random.default_rng(seed)
    return (generator.standard_t(3, shape) * generator.uniform(0.1, 9)).astype(np.float32)


@given(SEEDS, st.sampled_from(BITS), RANGE, RANGE)
def test_ranges_are_quantized_as_the_definition_says(seed, bits, low, high):
    x = values(seed, 40)
    scale, zero_point = affine(low, high, bits)
    expected = quantized(x.astype(np.float64), low, high, bits, symmetric=False)
    actual = quantized_by_tensor(x, float(scale), float(zero_point), bits)
    assert zero_point == round(float(zero_point))
    assert (np.abs(actual - expected) <= 1.0001 * scale).all()  # a tie may fall to either level
    assert np.mean(np.abs(actual - expected) > 1e-3 * scale) < 0.1
    assert len(np.unique(actual)) <= 2**bits


def test_an_empty_range_has_the_level_0_alone():
    assert affine(0.0, -1.0, 4) == (0, 0)
    assert affine(np.nan, np.nan, 4) == (0, 0)
    assert (quantized_by_tensor(np.ones(3, np.float32), 0.0, 0.0, 4) == 0).all()


@given(SEEDS, st.sampled_from(BITS))
def test_tokens_have_ranges_of_their_own(seed, bits):
    x = values(seed, 3, 5, 16)
    actual = quantized_by_token(x, bits)
    for index in np.ndindex(3, 5):
        scale, zero_point = affine(x[index].min(), x[index].max(), bits)
        expected = quantized_by_tensor(x[index], float(scale), float(zero_point), bits)
        np.testing.assert_allclose(actual[index], expected, rtol=1e-5, atol=1.01 * scale)
        assert np.mean(np.isclose(actual[index], expected, rtol=1e-4)) > 0.8
    step = (np.maximum(x.max(-1), 0) - np.minimum(x.min(-1), 0)) / (2**bits - 1)
    assert (np.abs(actual - x) <= step[..., None] * 1.001).all()
    assert (quantized_by_token(np.zeros((2, 4), np.float32), bits) == 0).all()


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_scales_are_the_best_of_36(bits, by_row):
    weight = values(bits, 6, 24)
    weight[2] = 0
    scale = weight_scales(weight, bits)[by_row].ravel()
    highest = 2 ** (bits - 1) - 1
    for row, chosen in zip(weight if by_row else [weight.ravel()], scale, strict=True):
        reach = float(np.abs(row).max())
        if reach == 0:
            assert chosen == 1
            continue
        candidates = [r * reach / highest for r in np.linspace(0.3, 1, 36)]
        errors = [
            ((row - np.clip(np.rint(row / s), -highest, highest) * s) ** 2).sum()
            for s in candidates
        ]
        assert chosen == pytest.approx(candidates[int(np.argmin(errors))], rel=1e-5)
    quantized_weight = quantized_by_scale(weight, scale[:, None], bits)
    assert np.isfinite(quantized_weight).all()
    assert max(len(np.unique(row)) for row in quantized_weight) <= 2**bits - 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("group_size", MLX_GROUPS)
@pytest.mark.parametrize("bits", MLX_BITS)
def test_groups_are_those_of_mlx_to_the_last_bit(bits, group_size, dtype):
    raw = values(bits, 64, 256)
    raw[3], raw[5, :32], raw[6] = 0, 0.5, np.abs(raw[6])
    weight = mx.array(raw).astype(getattr(mx, dtype))
    packed, scales, biases = mx.quantize(weight, group_size=group_size, bits=bits)
    wide = scales.astype(mx.float32), biases.astype(mx.float32)
    expected = np.asarray(mx.dequantize(packed, *wide, group_size=group_size, bits=bits))
    np.testing.assert_allclose(quantized_by_group(weight, group_size, bits), expected, rtol=1e-6)
    if dtype == "float16":
        actual = quantized_by_group(np.asarray(weight), group_size, bits)
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


@given(SEEDS, st.sampled_from(BITS))
def test_frameworks_agree(seed, bits):
    x, weight = values(seed, 4, 64), values(seed + 1, 8, 32)
    scale = weight_scales(weight, bits)[1]
    levels = *(float(number) for number in affine(-1.0, 2.0, bits)), bits
    pairs = [
        (quantized_by_tensor(x, *levels), quantized_by_tensor(mx.array(x), *levels)),
        (quantized_by_token(x, bits), quantized_by_token(mx.array(x), bits)),
        (
            quantized_by_scale(weight, scale, bits),
            quantized_by_scale(mx.array(weight), mx.array(scale), bits),
        ),
    ]
    for expected, actual in pairs:
        assert isinstance(actual, mx.array)
        close = np.isclose(np.asarray(actual), expected, rtol=1e-5, atol=1e-6)
        assert close.mean() > 0.98  # a value between two levels may fall to either


def test_table_names_each_quantizer_once_with_its_cost():
    assert len({quantizer.name for quantizer in QUANTIZERS}) == len(QUANTIZERS) == 46
    assert {q.quantizes for q in ACTIVATION_QUANTIZERS} == {"activation"}
    assert {q.quantizes for q in WEIGHT_QUANTIZERS} == {"weight"}
    costs = {q.name: q.cost(128) for q in QUANTIZERS}
    assert costs["activation-token-4"] == costs["weight-tensor-4"] == 4
    assert costs["weight-row-4"] == 4 + 16 / 128
    assert [costs[f"weight-mlx-{g}-3"] for g in MLX_GROUPS] == [4, 3.5, 3.25]
    assert all(quantizer.formula for quantizer in QUANTIZERS)
    assert Quantizer("weight", "mlx-64", 4).group_size == 64
    assert not Quantizer("weight", "mlx-64", 4).fits(96)
    assert Quantizer("weight", "row", 4).fits(97)

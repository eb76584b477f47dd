import mlx.core as mx
import numpy as np
import pytest

from calibzarr.quantization.packing import packed
from calibzarr.quantization.quantizers import MLX_BITS, MLX_GROUPS, levels_by_group


@pytest.mark.parametrize("group_size", MLX_GROUPS)
@pytest.mark.parametrize("bits", MLX_BITS)
def test_packed_levels_scales_and_biases_are_those_of_mlx(bits, group_size):
    weight = mx.array(np.random.default_rng(bits).standard_normal((5, 256))).astype(mx.bfloat16)
    level, scale, bias = levels_by_group(weight, group_size, bits)
    expected = mx.quantize(weight, group_size=group_size, bits=bits)
    actual = packed(np.asarray(level).astype(np.uint8), bits)
    np.testing.assert_array_equal(actual, np.asarray(expected[0]))
    assert mx.array_equal(scale, expected[1])
    assert mx.array_equal(bias, expected[2])

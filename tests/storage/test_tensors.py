import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from calibzarr.storage import tensors
from calibzarr.storage.tensors import TensorShape


def test_another_reader_reads_what_was_written(tmp_path):
    rng = np.random.default_rng(0)
    values = {
        "b.weight": rng.integers(0, 2**32, (3, 5), dtype=np.uint32),
        "a.scales": rng.standard_normal((3, 2)).astype(np.float16),
        "a.norm": rng.standard_normal(7).astype(ml_dtypes.bfloat16),
        "scalar": np.array(1.5, np.float32),
    }
    dtypes = ("U32", "F16", "BF16", "F32")
    shapes = {
        name: TensorShape(dtype, array.shape)
        for (name, array), dtype in zip(values.items(), dtypes, strict=True)
    }
    bits = {**values, "a.norm": values["a.norm"].view(np.uint16)}
    with (tmp_path / "a.safetensors").open("xb") as file:
        tensors.write(file, shapes, bits.items(), {"format": "mlx"})
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == values.keys()
    for name, array in values.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with safe_open(tmp_path / "a.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "mlx"}
    size = (tmp_path / "a.safetensors").stat().st_size
    expected = sum(shape.num_bytes for shape in shapes.values())
    assert size == expected + len(tensors.header(shapes, {"format": "mlx"}))


def test_a_tensor_of_another_size_is_refused(tmp_path):
    shapes, values = {"a": TensorShape("F16", (2,))}, {"a": np.zeros(3, np.float16)}
    with (tmp_path / "a.safetensors").open("xb") as file, pytest.raises(ValueError, match="is not"):
        tensors.write(file, shapes, values.items(), {})

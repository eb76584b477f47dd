import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from calibzarr.legacy import npz
from calibzarr.legacy.bounded import Unreadable

DTYPES = [np.float32, np.float16, np.int32, np.bool_, np.float64, np.uint8]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=3, max_side=4))
)


def state(random=0):
    return np.random.default_rng(random).standard_normal((1, 16, 64, 64), dtype=np.float32)


def file_of(directory, **arrays):
    path = directory / "a.npz"
    np.savez_compressed(path, **arrays)
    return path


@given(st.dictionaries(st.sampled_from("abcde"), ARRAYS, max_size=4))
@settings(max_examples=60)
def test_numpy_and_zipfile_read_what_is_encoded(arrays):
    file = io.BytesIO(npz.encode(arrays))
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        assert sorted(archive.files) == sorted(arrays)
        for name, array in arrays.items():
            assert archive[name].dtype == array.dtype
            np.testing.assert_array_equal(archive[name], array)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_files_are_hardly_larger_than_those_of_numpy(tmp_path, dtype):
    x = state().astype(dtype).astype(np.float32)
    path = file_of(tmp_path, x=x)
    assert len(npz.encode({"x": x})) <= 1.05 * path.stat().st_size


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_numpy_wrote_is_read(tmp_path, save, order):
    x = np.asarray(state()[0], order=order)
    save(tmp_path / "a.npz", x=x, sigma=np.float32(0.5), other=np.arange(3))
    arrays = npz.read(tmp_path / "a.npz", ["x", "sigma", "missing"], 300_000)
    assert arrays.keys() == {"x", "sigma"}
    np.testing.assert_array_equal(arrays["x"], x)
    assert (arrays["sigma"].shape, arrays["sigma"].dtype) == ((), np.float32)


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=300)
def test_a_changed_byte_is_found_or_does_no_harm(tmp_path_factory, place, change):
    x = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
    data = bytearray(npz.encode({"x": x, "sigma": np.array(0.5, np.float32)}))
    data[place % len(data)] ^= change
    path = tmp_path_factory.getbasetemp() / "changed.npz"
    path.write_bytes(data)
    try:
        arrays = npz.read(path, ["x", "sigma"], 1000)
    except Unreadable:
        return
    for name, expected in (("x", x), ("sigma", np.float32(0.5))):
        if name in arrays:
            np.testing.assert_array_equal(arrays[name], expected)


@given(st.integers(0, 500))
@settings(max_examples=60)
def test_a_cut_file_is_unreadable(tmp_path_factory, length):
    data = npz.encode({"x": np.arange(48, dtype=np.float32), "sigma": np.array(1.0)})
    path = tmp_path_factory.getbasetemp() / "cut.npz"
    path.write_bytes(data[: min(length, len(data) - 1)])
    with pytest.raises(Unreadable):
        npz.read(path, ["x"], 1000)


def test_pickled_objects_are_not_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").write_text, ("!",))

    path = file_of(tmp_path, x=np.array([Trap()], dtype=object))
    with pytest.raises(Unreadable, match="holds no numbers in x, but object"):
        npz.read(path, ["x"], 10_000)
    assert not (tmp_path / "sprung").exists()


def lying(path, declared):
    """Let the directory of an archive declare another size of its one member."""
    with zipfile.ZipFile(path) as archive:
        size = archive.infolist()[0].file_size
    data = bytearray(path.read_bytes())
    start = data.rindex(b"PK\1\2")
    assert int.from_bytes(data[start + 24 : start + 28], "little") == size
    data[start + 24 : start + 28] = declared.to_bytes(4, "little")
    path.write_bytes(data)


@pytest.mark.parametrize("declared", [None, 500, 4_000])
def test_a_bomb_is_refused_before_it_takes_memory(tmp_path, declared):
    path = file_of(tmp_path, x=np.zeros(25_000_000, dtype=np.float32))
    assert path.stat().st_size < 200_000
    if declared is not None:
        lying(path, declared)
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable, match=r"expected|another size"):
            npz.read(path, ["x"], 200_000)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "shape", ["(1000000, 1000000, 1000000)", "(-1, 4)", "(2, 2)", "(1, 2, 3, 4)" + " " * 5000]
)
def test_absurd_shapes_are_refused(tmp_path, shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    member = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + b"\0" * 4
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", member)
    with pytest.raises(Unreadable, match="x"):
        npz.read(tmp_path / "a.npz", ["x"], 10_000)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_of_compression_are_refused(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.writestr("x.npy", b"\0" * 1000)
    with pytest.raises(Unreadable, match="that NumPy never uses"):
        npz.read(tmp_path / "a.npz", ["x"], 10_000)

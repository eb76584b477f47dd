"""Archives of what is unfinished: NumPy reads them, and nothing damaged is taken for values."""

import json
import os
import random

import numpy as np
import pytest

from calibzarr.collecting import archive
from calibzarr.errors import Message, StoreError, TakenError

HEADER = {"steps": [0, 2], "name": "a"}
ARRAYS = {"power": np.arange(6.0).reshape(2, 3), "covered": np.zeros((0, 2), bool)}
REMEDY = Message("remove it")


@pytest.fixture
def file(tmp_path):
    archive.write(tmp_path / "kept", HEADER, ARRAYS)
    return tmp_path / "kept"


def values(file):
    with archive.opened(file, REMEDY) as kept:
        power = kept.array("power", "float64", (2, 3))
        return kept.header, power, kept.array("covered", bool, (0, 2))


def refused(file, reader=values):
    with pytest.raises(StoreError) as error:
        reader(file)
    assert str(error.value).startswith(f"{file} is damaged: its ")
    assert str(error.value).endswith("; remove it")
    return str(error.value)


def test_what_is_written_is_read_by_numpy_too(file):
    header, *arrays = values(file)
    assert header == HEADER
    with np.load(file) as stored:
        assert json.loads(stored["header"].tobytes()) == HEADER
        for expected, actual in zip(ARRAYS, arrays, strict=True):
            np.testing.assert_array_equal(actual, stored[expected])
            assert actual.flags.writeable


def test_nothing_is_nothing(tmp_path):
    with archive.opened(tmp_path / "kept", REMEDY) as kept:
        assert kept is None


def test_every_flipped_bit_is_refused_or_means_nothing(file):
    whole, generator = file.read_bytes(), random.Random(0)
    for _ in range(300):
        damaged, bit = bytearray(whole), generator.randrange(8 * len(whole))
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            header, power, _ = values(file)
        except StoreError:
            continue
        assert header == HEADER
        np.testing.assert_array_equal(power, ARRAYS["power"])


def test_what_is_no_regular_file_is_not_read(tmp_path):
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)):
        file = tmp_path / f"kept-{make.__name__}"
        make(file)
        assert "content is no regular file" in refused(file)


def test_torn_and_foreign_files_are_refused(file):
    whole = file.read_bytes()
    for content in (b"", b"PK", whole[:-30], whole[100:], whole[:200] + whole[300:]):
        file.write_bytes(content)
        refused(file)
    np.savez_compressed(file.with_suffix(".npz"), header=np.zeros(9, np.uint8))
    assert "compressed" in refused(file.with_suffix(".npz"))
    np.savez(file.with_suffix(".npz"), header=np.array([None]))
    refused(file.with_suffix(".npz"))


@pytest.mark.parametrize("header", [b"[]", b"{", b"[" * 10**5, b"9" * 10**5, b"\xff"])
def test_headers_that_are_no_objects_are_refused(tmp_path, header):
    np.savez(tmp_path / "kept.npz", header=np.frombuffer(header, np.uint8))
    refused(tmp_path / "kept.npz")


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [("power", "float32", (2, 3)), ("power", "float64", (3, 2)), ("none", "float64", ())],
)
def test_arrays_of_another_kind_are_refused_by_name(file, name, dtype, shape):
    def reader(file):
        with archive.opened(file, REMEDY) as kept:
            kept.array(name, dtype, shape)

    assert f"its {name} is " in refused(file, reader)


def test_an_array_that_declares_more_than_it_has_takes_no_memory(file):
    content = file.read_bytes().replace(b"(2, 3), ", b"(2, 3333333333), ".ljust(8)[:8])
    file.write_bytes(content)
    refused(file)


def test_a_directory_is_for_one_plan(tmp_path):
    directory, plan = tmp_path / "rounded", {"bits": [4, 6], "seed": None}
    archive.prepare(directory, plan)
    (directory / "kept").write_bytes(b"some")
    archive.prepare(directory, plan)
    assert (directory / "kept").exists()
    archive.prepare(directory, {**plan, "bits": [4]})
    assert [file.name for file in directory.iterdir()] == [archive.PLAN]


def test_what_is_somebody_elses_or_damaged_is_not_removed(tmp_path):
    file = tmp_path / archive.PLAN
    (tmp_path / "theirs").touch()
    with pytest.raises(TakenError, match="holds something else"):
        archive.prepare(tmp_path, {})
    for content in (b"{", b"[]", b"[" * 10**5):
        file.write_bytes(content)
        with pytest.raises(StoreError, match="is damaged: its content"):
            archive.prepare(tmp_path, {})
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(StoreError, match="is no regular file; remove"):
        archive.prepare(tmp_path, {})
    assert {entry.name for entry in tmp_path.iterdir()} == {"theirs", archive.PLAN}

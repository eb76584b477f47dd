import errno

import pytest

from calibzarr.errors import disk_full_named, out_of_memory_named


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[metal::malloc] Attempting to allocate 12884901888 bytes"),
        RuntimeError("[malloc] Unable to allocate 12884901888 bytes."),
    ],
)
def test_lack_of_memory_names_the_batch_size(error):
    message = "with 8 images at a time; use a smaller --batch-size"
    with pytest.raises(MemoryError, match=message), out_of_memory_named(8):
        raise error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="never called"), out_of_memory_named(8):
        raise RuntimeError("3 of 67 layers were never called")
    with pytest.raises(OSError, match="denied"), disk_full_named(lambda: "no"):
        raise PermissionError(errno.EACCES, "denied")


def test_full_disk_keeps_its_number():
    full = OSError(errno.ENOSPC, "No space left on device", "/some/file")
    with (
        pytest.raises(OSError, match="nothing is lost") as caught,
        disk_full_named(lambda: "nothing is lost"),
    ):
        raise full
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.strerror == "the disk is full: nothing is lost"

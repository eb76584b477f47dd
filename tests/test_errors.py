import errno
from pathlib import Path

import pytest

from calibzarr.errors import (
    Call,
    Message,
    Option,
    OptionError,
    at_least,
    disk_full_named,
    image_range,
    out_of_memory_named,
)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[metal::malloc] Attempting to allocate 12884901888 bytes"),
        RuntimeError("[malloc] Unable to allocate 12884901888 bytes."),
    ],
)
def test_lack_of_memory_names_the_batch_size(error):
    message = "with 8 images at a time; use a smaller batch_size"
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
    assert str(caught.value) == "the disk is full: nothing is lost"


def test_messages_read_as_python_in_python():
    call = Call("build", (Path("a.zarr"),), {"resume": True, "images": (0, 4), "prompts": ...})
    message = Message(Option("num_steps"), " is wrong; go on with: ", call)
    expected = "calibzarr.build('a.zarr', resume=True, images=(0, 4), prompts=...)"
    assert str(message) == f"num_steps is wrong; go on with: {expected}"
    assert str(Message("give ", Option("layout", "nchw"), ": ", message)).startswith(
        "give layout='nchw': num_steps is wrong"
    )


def test_bounds_and_ranges_name_what_was_given():
    at_least("batch_size", 1, 1)
    with pytest.raises(OptionError, match=r"^batch_size must be 1 or more, got 0$"):
        at_least("batch_size", 0, 1)
    with pytest.raises(OptionError, match="got nan"):
        at_least("tolerance", float("nan"), 0)
    assert image_range((2, 5), 5) == range(2, 5)
    with pytest.raises(OptionError, match=r"^images must be A:B with 0 <= A < B <= 4, got 2:5$"):
        image_range((2, 5), 4)

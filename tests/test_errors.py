import errno
from pathlib import Path

import pytest

from calibzarr.errors import (
    Call,
    Message,
    Option,
    OptionError,
    at_least,
    check_known,
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
    assert image_range((2, 5), 4, cut=True) == range(2, 4)
    with pytest.raises(OptionError, match=r"B <= 4, got 4:5$"):
        image_range((4, 5), 4, cut=True)


def test_a_name_that_is_not_there_is_told_with_near_ones():
    with pytest.raises(OptionError, match=r"^no sort 'rnage'; did you mean range\? There are: ra"):
        check_known("sort", "rnage", ["range", "model"])
    layers = [f"mm_block_{block}.image.mlp.fc{layer}" for block in range(40) for layer in (1, 2)]
    with pytest.raises(OptionError) as raised:
        check_known("layer", "block_7.image.fc2", layers)
    assert str(raised.value).startswith("no layer 'block_7.image.fc2'; did you mean mm_block_")
    assert "mm_block_7.image.mlp.fc2" in str(raised.value)
    assert "There are" not in str(raised.value)
    with pytest.raises(OptionError, match=r"^no layer 'zzz'$"):
        check_known("layer", "zzz", layers)
    check_known("layer", layers[3], layers)

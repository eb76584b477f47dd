import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")

_LIMITED = """
import resource, sys
from calibzarr import cli

megabytes = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_AS, (megabytes * 2**20,) * 2)
try:
    cli.main()
finally:
    print("mlx.core" in sys.modules)
"""


def test_too_little_address_space_is_refused_before_mlx_is_loaded(tmp_path):
    arguments = ["-c", _LIMITED, "2047", "build", tmp_path / "a.zarr", "-q"]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "False\n")
    assert done.stderr == (
        "Error: the address space of this process is limited to 2047 MiB, and MLX needs 2048 MiB "
        "and more; lift the limit with: ulimit -v unlimited\n"
    )
    assert not (tmp_path / "a.zarr").exists()


_AVAILABLE = """
import os, resource
from calibzarr import memory

free, total = memory.available(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
size = os.sysconf("SC_PAGE_SIZE") * int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (size + 10**7,) * 2)
print(0 < free < total, 0 <= memory.available() <= 10**7)
"""


def test_what_is_available_is_less_than_there_is_and_than_the_limit_allows():
    done = subprocess.run([sys.executable, "-c", _AVAILABLE], check=True, capture_output=True)
    assert done.stdout == b"True True\n"

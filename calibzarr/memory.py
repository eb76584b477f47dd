"""How much memory there is, as the system and its limits say."""

import os
import resource
from pathlib import Path

from calibzarr.errors import OutOfMemoryError

_LEAST_ADDRESS_SPACE = 2**31  # a build with the smallest model takes 0.8 GB, a collection 1.2


def available() -> int:
    """Bytes that this process may still take without swapping; half of all where nothing tells.

    What the page cache holds counts as free; limits of the process and of its control group count.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    known = _fields("/proc/meminfo").get("MemAvailable")
    free = page * os.sysconf("SC_PHYS_PAGES") // 2 if known is None else known
    limit = _address_space()
    if limit is not None:
        free = min(free, limit - _fields("/proc/self/status").get("VmSize", 0))
    group = Path("/sys/fs/cgroup")  # of the container, where there is one
    try:
        most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, most - used)
    except (OSError, ValueError):  # no control group, or "max": no limit
        pass
    return max(free, 0)


def check_address_space() -> None:
    """Check that MLX can be loaded: with less address space it ends the process, or hangs it.

    Raises:
        OutOfMemoryError: if the process is limited to less.
    """
    limit = _address_space()
    if limit is not None and limit < _LEAST_ADDRESS_SPACE:
        raise OutOfMemoryError(
            f"the address space of this process is limited to {limit // 2**20} MiB, and MLX needs "
            f"{_LEAST_ADDRESS_SPACE // 2**20} MiB and more; lift the limit with: "
            "ulimit -v unlimited"
        )


def _address_space() -> int | None:
    """The limit in bytes; None where there is none."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _fields(file: str) -> dict[str, int]:
    """What a file of ``/proc`` tells in KiB, in bytes; nothing where there is none."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return {}
    parts = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): 1024 * int(value) for name, value, _ in parts}

"""What other processes of tests run in."""

import ctypes.util
import os
import sys


def fast_environment():
    """With an optimised BLAS, where there is one: MLX's wheel for Linux brings a plain one."""
    library = ctypes.util.find_library("openblas") if sys.platform == "linux" else None
    if library is None:
        return None
    return {**os.environ, "LD_PRELOAD": library, "OPENBLAS_NUM_THREADS": "1"}

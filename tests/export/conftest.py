import shutil

import pytest

from tests.support.measuring import measure


@pytest.fixture(scope="session")
def to_quantize(make_store, tmp_path_factory):
    """12 images of 3 calls, with sensitivities."""
    path = make_store(num_images=12, num_steps=3, collect={"steps": "all", "num_images": 2})
    copy = tmp_path_factory.mktemp("measured") / "a.zarr"
    shutil.copytree(path, copy)
    measure(copy, images=2, probes=2)
    return copy

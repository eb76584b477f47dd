import pytest

from calibzarr.errors import StoreError
from calibzarr.storage import info
from tests.support.files import EXAMPLE


def test_a_description_is_what_the_files_are():
    described = info.describe(EXAMPLE)
    files = [file for file in EXAMPLE.rglob("*") if file.is_file()]
    assert described["files"] == len(files)
    assert sum(described["bytes"].values()) == sum(file.stat().st_size for file in files)
    latents = (EXAMPLE / "latents").glob("c.*")
    assert described["bytes"]["latents"] == sum(file.stat().st_size for file in latents)
    assert described["num_images"] == described["manifest"]["num_images"]
    assert described["n_completed"] == len(list((EXAMPLE / "latents").glob("c.*")))
    assert described["collected"] == described["manifest"]["activations"]


def test_what_is_no_store_is_not_described(tmp_path):
    with pytest.raises(StoreError, match="is not a calibzarr store"):
        info.describe(tmp_path)

import json

import numpy as np
import pytest

from calibzarr.storage import backup
from calibzarr.storage.manifest import update_attributes
from tests.support.stores import create


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.zarr"
    create(path)
    return path


def test_copies_are_those_of_the_originals(path):
    assert backup.read_root(path) == json.loads((path / "zarr.json").read_text())
    copies = backup.read_coordinates(path)
    assert copies["prompt"].tolist() == ["prompt 0", "prompt 1", "prompt 2"]
    assert copies["seed"].tolist() == [0, 1, 2]
    assert copies["sigma"].dtype == np.float32


def test_a_copy_of_the_root_follows_what_does_not_contradict_it(path):
    update_attributes(path, {"n_completed": 2, "seed": 5})
    assert backup.read_root(path)["attributes"]["n_completed"] == 2
    update_attributes(path, {"n_completed": 3, "seed": 6})  # decides on other states
    copy = backup.read_root(path)["attributes"]
    assert (copy["n_completed"], copy["seed"]) == (2, 5)
    assert backup.differing({**copy, "seed": 6, "model": "tiny"}, copy) == ["seed"]


def test_coordinates_that_are_not_given_stay(path):
    backup.write_coordinates(path, {"seed": np.array([7, 8])})
    copies = backup.read_coordinates(path)
    assert copies["seed"].tolist() == [7, 8]
    assert len(copies["prompt"]) == 3


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"sha256": "0", "content": {}}'])
def test_a_damaged_copy_is_none(path, damage):
    for name in (backup.ROOT, backup.COORDINATES):
        backup.file(path, name).write_text(damage)
    assert backup.read_root(path) is None
    assert backup.read_coordinates(path) == {}

import numpy as np
import pytest

from calibzarr.storage import staging, store
from calibzarr.storage.manifest import read_root, update_attributes
from calibzarr.storage.variable import Addition, Variable
from tests.support.stores import create, open_strictly, snapshot

FACTS = Addition(
    "facts",
    (
        Variable("fact", ("image", "step"), "int64", "of an image", chunk={"step": 1}),
        Variable("weight", ("step",), "float32", "of a step"),
    ),
    "facts.staged",
    title="facts",
)
SIZES = {"image": 3, "step": 5}


class Killed(BaseException):
    """Nothing catches this: as if the process were gone."""


def facts(number):
    return {"fact": np.full((3, 5), number), "weight": np.full(5, number, np.float32)}


@pytest.fixture
def path(tmp_path):
    """A store with facts."""
    path = tmp_path / "a.zarr"
    create(path)
    staging.write(path, FACTS, SIZES, facts(1), {"number": 1})
    return path


def test_readers_see_what_is_written(path):
    dataset = open_strictly(path)
    assert (dataset.fact == 1).all()
    assert (dataset.weight == 1).all()
    assert dataset.attrs["facts"] == {"number": 1}
    assert not list(path.glob("*staged*"))


def test_new_facts_take_the_place_of_the_old(path):
    staging.write(path, FACTS, SIZES, facts(2), {"number": 2})
    dataset = open_strictly(path)
    assert (dataset.fact == 2).all()
    assert dataset.attrs["facts"] == {"number": 2}


def test_a_failure_while_it_is_written_leaves_the_old(path):
    before = snapshot(path)
    with pytest.raises(ValueError, match="no room"), staging.stage(path, FACTS, SIZES, {}):
        raise ValueError("no room")
    assert snapshot(path) == before


@pytest.mark.parametrize("moves", range(4))
def test_an_installation_goes_on_after_a_kill(path, monkeypatch, moves):
    rename, left = staging.Path.rename, [moves]

    def rename_until_killed(self, target):
        if "facts.staged" in str(self) and "partial" not in str(self):
            if not left[0]:
                raise Killed
            left[0] -= 1
        return rename(self, target)

    with staging.stage(path, FACTS, SIZES, {"number": 2}) as group:
        for name, values in facts(2).items():
            store.array(group, name)[:] = values
    with monkeypatch.context() as patch:
        patch.setattr(staging.Path, "rename", rename_until_killed)
        if moves < 3:  # two variables and the directory that is left
            with pytest.raises(Killed):
                staging.install(path, FACTS)
            seen = {"fact", "weight"} & set(open_strictly(path).variables)
            assert seen == ({"fact", "weight"} if moves == 2 else set())
        else:
            assert staging.install(path, FACTS)
    assert staging.install(path, FACTS) == (moves < 3)
    assert (open_strictly(path).fact == 2).all()
    assert (open_strictly(path).weight == 2).all()
    assert read_root(path).attributes["facts"] == {"number": 2}
    assert not staging.install(path, FACTS)


def test_what_is_staged_grows_with_the_store(path):
    with staging.stage(path, FACTS, SIZES, {}) as group:
        store.array(group, "fact")[:] = 3
    store.extend(path, [f"prompt {i}" for i in range(4)], range(4), {})
    assert staging.install(path, FACTS)
    assert open_strictly(path).fact.shape == (4, 5)


def test_what_is_unpublished_stays_on_the_disk(path):
    update_attributes(path, {"other": 1})
    listed = set(read_root(path).arrays)
    left = staging.unpublish(path, FACTS)
    assert set(left) == listed - {"fact", "weight"} == set(read_root(path).arrays)
    assert "facts" not in read_root(path).attributes
    assert read_root(path).attributes["other"] == 1
    assert (path / "fact" / "zarr.json").exists()

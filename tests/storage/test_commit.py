import shutil
import signal

import numpy as np
import pytest

from calibzarr.errors import StoreError
from calibzarr.integrity import files
from calibzarr.storage import collected, commit, copies, store
from calibzarr.storage.commit import update_attributes
from calibzarr.storage.manifest import read_root
from calibzarr.storage.variable import Addition, Variable
from tests.support import children
from tests.support.stores import create, open_strictly, snapshot

FACTS = Addition(
    "facts",
    (
        Variable("fact", ("image", "step"), "int64", "of an image", chunk={"step": 1}),
        Variable("weight", ("step",), "float32", "of a step"),
    ),
    title="facts",
)
SIZES = {"image": 3, "step": 5}


class Killed(BaseException):
    """Nothing catches this: as if the process were gone."""


def kill(*_):
    raise Killed


def interrupted(path):
    """Let a change be committed, and nothing of it done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit, "_apply", kill)
        with pytest.raises(Killed):
            write_facts(path, 2)


def facts(number):
    return {"fact": np.full((3, 5), number), "weight": np.full(5, number, np.float32)}


@pytest.fixture
def path(tmp_path):
    """A store with facts."""
    path = tmp_path / "a.zarr"
    create(path)
    collected.write(path, FACTS, SIZES, facts(1), {"number": 1})
    return path


def test_readers_see_what_is_written(path):
    dataset = open_strictly(path)
    assert (dataset.fact == 1).all()
    assert (dataset.weight == 1).all()
    assert dataset.attrs["facts"] == {"number": 1}
    assert not list((path / "copies").glob("next*"))


def test_new_facts_take_the_place_of_the_old(path):
    collected.write(path, FACTS, SIZES, facts(2), {"number": 2})
    dataset = open_strictly(path)
    assert (dataset.fact == 2).all()
    assert dataset.attrs["facts"] == {"number": 2}


def test_a_failure_while_it_is_written_leaves_the_old(path):
    before = snapshot(path)
    with pytest.raises(ValueError, match="no room"), collected.stage(path, FACTS, SIZES, {}):
        raise ValueError("no room")
    assert snapshot(path) == before


def test_what_is_added_grows_with_the_store(path):
    store.extend(path, [f"prompt {i}" for i in range(4)], range(4), {})
    assert open_strictly(path).fact.shape == (4, 5)
    with collected.stage(path, FACTS, SIZES, {}) as group:
        store.array(group, "fact")[:] = 3
    assert open_strictly(path).fact.shape == (4, 5)


def state(path):
    """Which of two versions of its facts a store has, of which there is no third."""
    dataset = open_strictly(path)
    if "fact" not in dataset:
        assert "weight" not in dataset
        assert "facts" not in dataset.attrs
        return None
    (number,) = {*np.unique(dataset.fact.values), *np.unique(dataset.weight.values)}
    assert dataset.attrs["facts"] == {"number": number}
    return int(number)


def write_facts(path, number):
    collected.write(path, FACTS, SIZES, facts(number), {"number": number})


def test_a_kill_at_each_operation_leaves_the_old_or_the_new(path, tmp_path):
    """And a second one, at each operation of what goes on after the first."""
    copy = shutil.copytree(path, tmp_path / "undisturbed.zarr")
    changes = children.run(write_facts, copy, 2, below=copy).changes
    assert state(copy) == 2
    states = []
    for moment in range(0, changes, 1 + changes // 40):
        copy = shutil.copytree(path, tmp_path / f"{moment}.zarr")
        ended = children.run(write_facts, copy, 2, below=copy, signals={moment: signal.SIGKILL})
        assert ended.killed
        committed = (copy / "copies" / "next").exists()
        states.append((committed, state(copy)))
        again = shutil.copytree(copy, tmp_path / f"{moment} again.zarr")
        if commit.recover(copy):
            assert state(copy) == 2
            below = children.run(commit.recover, again, below=again, signals={})
            assert (below.code, state(again)) == (0, 2)
        assert read_root(copy).attributes["facts"] == {"number": state(copy)}
        expected = files.expected(read_root(copy))
        assert {file: {copies.hash_file(copy / file)} for file in expected} == expected
    assert {(False, 1), (True, None)} <= set(states)
    assert (False, None) not in states


def test_what_comes_after_a_kill_may_be_killed_at_each_operation_too(path, tmp_path):
    interrupted(path)
    assert state(path) == 1
    moment, killed = 0, True
    while killed:
        copy = shutil.copytree(path, tmp_path / f"{moment}.zarr")
        signals = {moment: signal.SIGKILL}
        killed = children.run(commit.recover, copy, below=copy, signals=signals).killed
        commit.recover(copy)
        assert state(copy) == 2
        moment += 2
    assert moment > 20


def test_a_damaged_change_is_refused_and_changes_nothing(path):
    interrupted(path)
    (path / "copies" / "next" / "weight" / "c.0").write_bytes(b"torn")
    before = snapshot(path)
    with pytest.raises(StoreError, match=r"was interrupted, and its weight/c\.0 is damaged"):
        commit.recover(path)
    assert snapshot(path) == before


def test_what_was_not_rewritten_is_not_read_again(path):
    """Damage of an array's own metadata never gets into the root."""
    before = read_root(path).arrays["latents"]
    file = path / "latents" / "zarr.json"
    file.write_text(file.read_text().replace('"cname": "zstd"', '"cname": "zrtd"'))
    update_attributes(path, {"other": 1})
    assert read_root(path).arrays["latents"] == before
    assert files.expected(read_root(path))["latents/zarr.json"] != {copies.hash_file(file)}


def test_another_store_in_its_place_is_not_written(path, tmp_path):
    root = read_root(path)
    path.rename(tmp_path / "moved.zarr")
    with pytest.raises(FileNotFoundError):
        update_attributes(root, {"other": 1})
    create(path)
    before = snapshot(path)
    with pytest.raises(StoreError, match="was moved or removed while it was in use"):
        update_attributes(root, {"other": 1})
    assert snapshot(path) == before

"""Stores of 0.1, which have no index, and copies in ``prompt/backup``."""

import hashlib
import json
import shutil

import pytest
import zarr

from calibzarr.errors import StoreError
from calibzarr.integrity.repair import repair
from calibzarr.integrity.verification import verify
from calibzarr.storage import adoption
from calibzarr.storage.commit import update_attributes
from calibzarr.storage.manifest import read_root
from tests.support.stores import open_strictly, snapshot, without_index

pytestmark = [pytest.mark.usefixtures("loaded_once")]


@pytest.fixture(scope="module")
def whole(make_store, tmp_path_factory):
    built = make_store(
        num_images=3, num_steps=1, image_size=32, collect={"num_images": 1, "steps": [0]}
    )
    path = shutil.copytree(built, tmp_path_factory.mktemp("old") / "a.zarr")
    without_index(path)
    names = ("sigma", "timestep", "final", "prompt", "seed")
    group = zarr.open_group(path, mode="r")
    (path / "prompt" / "backup").mkdir()
    for file, content in (
        ("root.json", json.loads((path / "zarr.json").read_text())),
        ("coordinates.json", {name: group[name][:].tolist() for name in names}),
    ):
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        copy = json.dumps({"content": content, "sha256": digest})
        (path / "prompt" / "backup" / file).write_text(copy)
    return path


@pytest.fixture
def path(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "a.zarr")


def edit(path, file, old, new):
    text = (path / file).read_text()
    assert old in text
    (path / file).write_text(text.replace(old, new, 1))


def flip(path, file):
    content = bytearray((path / file).read_bytes())
    content[len(content) // 2] ^= 16
    (path / file).write_bytes(content)


def write(path, name, selection, value):
    zarr.open_group(path, mode="r+")[name][selection] = value


def without_copies(path):
    shutil.rmtree(path / "prompt" / "backup")


DAMAGES = {
    "the hash of the prompts": lambda path: edit(path, "zarr.json", '_sha256": "', '_sha256": "f'),
    "an attribute's name": lambda path: edit(path, "zarr.json", '"activations"', '"activatiens"'),
    "a size": lambda path: edit(path, "zarr.json", '"num_images": 3', '"num_images": 4'),
    "a codec": lambda path: edit(path, "latents/zarr.json", "zstd", "zrtd"),
    "a chunk of seeds": lambda path: flip(path, "seed/c.0"),
    "a seed": lambda path: write(path, "seed", 1, 77),
    "a prompt": lambda path: write(path, "prompt", 1, "a cat"),
    "a noise level": lambda path: write(path, "sigma", 1, 0.5),
    "no seeds": lambda path: (path / "seed" / "c.0").unlink(),
    "no marks": lambda path: (path / "complete" / "c.0").unlink(),
    "no root": lambda path: (path / "zarr.json").unlink(),
    "no copies, no seeds": lambda path: without_copies(path) or (path / "seed" / "c.0").unlink(),
    "no copies, a prompt": lambda path: without_copies(path) or write(path, "prompt", 1, "a cat"),
    "no copies, a chunk of sigma": lambda path: without_copies(path) or flip(path, "sigma/c.0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_contradicts_the_rest_is_told_and_restored(path, whole, damage):
    damage(path)
    assert not verify(path).ok
    repair(path)
    assert repair(path).actions == ()
    assert verify(path).findings == ()
    found, right = (open_strictly(store).load() for store in (path, whole))
    assert found.equals(right)
    assert right.attrs.items() <= found.attrs.items()  # a key that was damaged may be a user's


@pytest.mark.parametrize(
    ("name", "damage"), [("kind", "unlink"), ("kind", "flip"), ("histogram", "flip")]
)
def test_statistics_that_contradict_the_rest_are_told_and_moved_aside(path, name, damage):
    chunk = sorted((path / name).glob("c.*"))[0]
    chunk.unlink() if damage == "unlink" else flip(path, chunk.relative_to(path))
    with pytest.raises(StoreError, match="is damaged"):
        update_attributes(path, {"other": 1})
    result = repair(path)
    assert [call.function for call in result.calls] == ["collect", "verify"]
    assert verify(path).ok
    assert "activations" not in read_root(path).attributes


def test_a_store_without_contradictions_gets_its_index_from_the_next_change(path):
    before = snapshot(path)
    assert adoption.contradictions(read_root(path)) == {}
    assert repair(path).actions == ()
    assert snapshot(path) == before
    update_attributes(path, {"other": 1})
    assert read_root(path).indexed
    assert verify(path).ok
    assert not list((path / "prompt").glob("backup/*"))


def test_what_nothing_tells_is_said_and_no_index_is_made(path):
    shutil.rmtree(path / "prompt" / "backup")
    edit(path, "zarr.json", '_sha256": "', '_sha256": "f')
    result = repair(path)
    assert "every prompt is damaged: give the file" in str(result.needed[0])
    assert not read_root(path).indexed
    assert repair(path).actions == result.actions == ()

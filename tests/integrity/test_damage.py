"""Random damage of a whole store, seeded: nothing is silent, and nothing dies."""

import json
import os
import random
import shutil

import pytest

import calibzarr
from calibzarr.errors import StoreError
from calibzarr.integrity.repair import repair
from calibzarr.integrity.verification import verify
from calibzarr.storage import store
from calibzarr.storage.manifest import read_root
from tests.support.measuring import measure
from tests.support.stores import create, random_image

FLIPS, CHANGES = 300, 40


@pytest.fixture(scope="module")
def whole(make_store, tmp_path_factory):
    """A store with statistics and sensitivities."""
    built = make_store(
        num_images=4, num_steps=4, image_size=32, collect={"num_images": 3, "steps": [0, 2]}
    )
    path = shutil.copytree(built, tmp_path_factory.mktemp("damage") / "a.zarr")
    measure(path, images=2, probes=2)
    assert verify(path).ok
    return path


def files_of(path):
    return sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())


@pytest.mark.slow
@pytest.mark.usefixtures("loaded_once")
def test_every_flipped_bit_is_found(whole, tmp_path):
    path = shutil.copytree(whole, tmp_path / "a.zarr")
    generator, files = random.Random(0), files_of(path)
    sizes = [(path / file).stat().st_size for file in files]
    for number in range(FLIPS):
        evenly = generator.choice(files)
        file = path / (evenly if number % 2 else generator.choices(files, sizes)[0])
        right = file.read_bytes()
        bit = generator.randrange(8 * len(right))
        damaged = bytearray(right)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        assert not verify(path).ok, (file, bit)
        file.write_bytes(right)


def delete(file, _):
    file.unlink()


def cut(file, _):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def copy(file, _):
    shutil.copy(file, file.with_name(f"{file.name}.9"))


def make_folder(file, _):
    file.unlink()
    file.mkdir()


def make_pipe(file, _):
    file.unlink()
    os.mkfifo(file)


def make_endless(file, _):
    file.unlink()
    file.symlink_to("/dev/zero")


def nest(file, _):
    file.write_text("[" * 100_000)


def retype(file, generator):
    """Another type at some key, if it is JSON."""
    try:
        content = json.loads(file.read_bytes())
    except ValueError:
        return delete(file, generator)
    keys = generator.choice(list(content))
    content[keys] = generator.choice([None, 5, "x", [], {}, 10**40, -1, True])
    return file.write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize(
    "change", [delete, cut, copy, make_folder, make_pipe, make_endless, nest, retype]
)
def test_no_change_of_files_is_silent_or_deadly(whole, tmp_path, change):
    generator, files = random.Random(change.__name__), files_of(whole)
    for number in range(CHANGES // 8):
        path = shutil.copytree(whole, tmp_path / f"{number}.zarr")
        change(path / generator.choice(files), generator)
        assert not verify(path).ok
        repair(path)
        assert repair(path).actions == ()


@pytest.mark.slow
def test_a_changed_manifest_is_restored_from_its_copy(whole, tmp_path):
    path = shutil.copytree(whole, tmp_path / "a.zarr")
    before, file = read_root(path), path / "zarr.json"
    text, sha = file.read_text(), before.attributes["prompts_sha256"]
    digit = "1" if sha[7] == "0" else "0"
    for old, new in (
        (sha, sha[:7] + digit + sha[8:]),
        ('"activations"', '"activatiens"'),
        ('"sensitivity"', '"sensitivitx"'),
    ):
        file.write_text(text.replace(old, new, 1))
        assert not verify(path).ok
        assert repair(path).set_aside == ()
        assert verify(path).ok
        restored = read_root(path)
        assert restored.attributes.items() >= before.attributes.items()  # a name may be a user's
        assert restored.arrays == before.arrays


@pytest.mark.slow
@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize("go", [shutil.rmtree, lambda path: path.rename(path.with_name("b.zarr"))])
def test_a_build_whose_store_goes_says_so(tmp_path, monkeypatch, go):
    path, write = tmp_path / "a.zarr", store.ImageWriter.write

    def written(self, image, *states):
        write(self, image, *states)
        if image == 1:
            go(path)

    monkeypatch.setattr(store.ImageWriter, "write", written)
    with pytest.raises(StoreError, match="was moved or removed while it was in use"):
        calibzarr.build(path, num_images=3, num_steps=1, image_size=32)
    assert not path.exists()
    for moved in tmp_path.iterdir():
        assert (moved.name, calibzarr.open_store(moved).n_completed) == ("b.zarr", 2)


def test_a_store_that_is_moved_during_a_build_is_not_begun_anew(tmp_path):
    path = tmp_path / "a.zarr"
    create(path)
    writer = store.ImageWriter(path)
    writer.write(0, *random_image(0))
    path.rename(tmp_path / "b.zarr")
    with pytest.raises(StoreError, match="was moved or removed while it was in use"):
        writer.write(1, *random_image(1))
    assert not path.exists()
    create(path)
    with pytest.raises(StoreError, match="was moved or removed while it was in use"):
        writer.write(1, *random_image(1))
    assert calibzarr.open_store(path).n_completed == 0

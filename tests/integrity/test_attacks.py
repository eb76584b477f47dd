import json
import shutil

import numpy as np
import pytest
import xarray as xr
import zarr

import calibzarr
from calibzarr.errors import Call
from calibzarr.integrity.repair import repair
from calibzarr.integrity.verification import verify
from calibzarr.storage import store
from tests.support.stores import open_strictly, snapshot, without_index

BUILT = {"num_images": 4, "num_steps": 5, "cfg_weight": 1.0, "image_size": 32}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("loaded_once")]


@pytest.fixture(scope="module")
def whole(make_store):
    """A store of 4 images in which nothing is wrong."""
    path = make_store(**BUILT)
    assert verify(path).findings == ()
    return path


@pytest.fixture(scope="module")
def observed_whole(make_store):
    """The same with statistics of 3 of them."""
    path = make_store(**BUILT, collect={"num_images": 3, "steps": [0, 5]})
    assert verify(path).findings == ()
    return path


@pytest.fixture
def path(whole, tmp_path):
    """A copy of it to spoil."""
    return shutil.copytree(whole, tmp_path / "a.zarr")


@pytest.fixture
def observed(observed_whole, tmp_path):
    """A copy to spoil, with statistics."""
    return shutil.copytree(observed_whole, tmp_path / "observed.zarr")


def found(path):
    return {(finding.check, finding.image) for finding in verify(path).findings}


def values(path):
    return open_strictly(path).load()


def mend(path, whole):
    """Repair and resume; everything must then be as it was."""
    result = repair(path)
    calibzarr.build(path, resume=True)
    assert verify(path).findings == ()
    xr.testing.assert_identical(values(path), values(whole))
    assert repair(path).actions == ()
    return result


def flip(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 0x10
    file.write_bytes(data)


def states(path, image):
    return path / "latents" / f"c.{image}.0.0.0.0"


def picture(path, image):
    return path / "decoded" / f"c.{image}.0.0.0"


def write(path, name, selection, value):
    """As any user of zarr would, so with the right checksums."""
    zarr.open_group(path, mode="r+")[name][selection] = value


def test_flipped_byte_in_a_shard(path, whole):
    size = states(path, 1).stat().st_size
    for place in (0, 31):  # of the picture's SHA-256
        flip(states(path, 1), place)
        assert found(path) == {("picture", 1)}
        flip(states(path, 1), place)
    for place in (32, 40, 500, 3000, size - 105, size - 60, size - 5, size - 4, size - 1):
        flip(states(path, 1), place)
        assert found(path) == {("states", 1)}
        flip(states(path, 1), place)
        assert found(path) == set()
    flip(states(path, 1), 500)
    damaged = states(path, 1).read_bytes()
    assert mend(path, whole).set_aside == (1,)
    aside = path / "latents" / "damaged"
    assert (aside / "latents.c.1.0.0.0.0").read_bytes() == damaged
    assert (aside / "decoded.c.1.0.0.0").read_bytes() == picture(whole, 1).read_bytes()


def test_truncated_shards(path, whole):
    for image, length in enumerate((0, 3, -1)):
        file = states(path, image)
        file.write_bytes(file.read_bytes()[:length])
        assert found(path) == {("states", own) for own in range(image + 1)}
    assert mend(path, whole).set_aside == (0, 1, 2)


def test_images_that_are_all_wrong_for_one_reason_stay(path):
    for image in range(4):
        states(path, image).write_bytes(b"torn")
    before = snapshot(path)
    result = repair(path)
    assert (result.actions, result.set_aside) == ((), ())
    assert "all for one reason" in result.needed[0]
    assert snapshot(path) == before


def test_lost_shard_of_a_finished_store(path, whole):
    states(path, 3).unlink()
    report = verify(path)
    assert report.incomplete == (3,)
    assert ("coordinates", 3) in {(finding.check, finding.image) for finding in report.findings}
    mend(path, whole)


def test_swapped_shards_name_each_other(path, whole):
    one, three, aside = states(path, 1), states(path, 3), path.parent / "aside"
    one.rename(aside)
    three.rename(one)
    aside.rename(three)
    report = verify(path)
    assert {(f.check, f.image) for f in report.findings} == {
        (check, image) for check in ("noise", "picture") for image in (1, 3)
    }
    assert "of seed 3, which is image 3's" in report.findings[0].message
    assert mend(path, whole).set_aside == (1, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(path, whole, value):
    write(path, "latents", (2, 3, 0, 1, 1), value)
    report = verify(path)
    assert [(f.check, f.image) for f in report.findings] == [("finite", 2)]
    assert report.findings[0].message.startswith("state 3 has")
    mend(path, whole)


def test_states_that_are_not_on_the_path(path, whole):
    latents = zarr.open_group(path)["latents"]
    mine, other = latents[1], latents[0]
    for step in (1, 2, 4, 5):  # of another image
        write(path, "latents", (1, step), other[step])
        assert found(path) == {("euler", 1)}
        write(path, "latents", (1, step), mine[step])
    write(path, "latents", 1, mine[[0, 1, 3, 2, 4, 5]])
    write(path, "latents", (2, 0, 7, 3, 3), 0.001)
    assert found(path) == {("euler", 1), ("noise", 2)}
    mend(path, whole)


def test_changed_seed_is_put_back_and_the_image_stays(path, whole):
    shard = states(path, 2).stat().st_ino
    write(path, "seed", 2, 77)
    assert found(path) == {("files", None), ("noise", 2)}
    assert mend(path, whole).set_aside == ()
    assert states(path, 2).stat().st_ino == shard


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damaged_coordinates(path, whole, damage):
    for name in ("prompt", "seed", "sigma", "timestep", "final", "complete"):
        (chunk,) = (path / name).glob("c.*")
        before = chunk.read_bytes()
        if damage == "flip":
            flip(chunk, len(before) // 2)
        elif damage == "truncate":
            chunk.write_bytes(before[:-3])
        else:
            chunk.unlink()
        messages = [finding.message for finding in verify(path).findings]
        assert any(message.startswith(f"{name}/c.0 is ") for message in messages)
    assert mend(path, whole).set_aside == ()


def test_changed_prompt(path, whole):
    write(path, "prompt", 1, "a cat")
    assert found(path) == {("files", None)}
    mend(path, whole)


@pytest.mark.parametrize(("name", "step"), [("sigma", 2), ("timestep", 0), ("final", 1)])
def test_changed_schedule(path, whole, name, step):
    write(path, name, step, 0.5)
    assert found(path) - {("noise", 1)} >= {("files", None)}
    assert mend(path, whole).set_aside == ()


def test_false_mark(path, whole):
    states(path, 0).unlink()
    assert ("coordinates", 0) in found(path)
    mend(path, whole)


def test_damaged_pictures(path, whole):
    flip(picture(path, 0), 200)
    picture(path, 1).write_bytes(picture(path, 1).read_bytes()[:-10])
    picture(path, 2).unlink()
    write(path, "decoded", 3, 7)  # all of one colour
    assert found(path) == {("picture", image) for image in range(4)}
    assert mend(path, whole).set_aside == ()  # the model decodes them again


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize("name", ["decoded", "sigma", "copies"])
def test_folders_that_are_lost_come_back_byte_for_byte(path, whole, name, is_file):
    shutil.rmtree(path / name)
    if is_file:
        (path / name).write_text("x")
    repair(path)
    assert repair(path).actions == ()
    assert verify(path).ok
    if name != "copies":  # whose generation begins anew
        assert snapshot(whole).items() <= snapshot(path).items()


def test_a_file_in_the_place_of_all_states_is_kept(path, whole):
    shutil.rmtree(path / "latents")
    (path / "latents").write_text("x")
    mend(path, whole)
    assert (path / "latents" / "damaged" / "latents.moved").read_text() == "x"


@pytest.mark.parametrize("name", ["copies/root.json9", "latents/c.9.0.0.0.0", "seed/c.0.9"])
def test_files_that_no_store_has_are_told_and_moved(path, whole, name):
    (path / name).write_text("x")
    (path / "mine").mkdir()
    report = verify(path)
    assert [name in finding.message for finding in report.findings] == [True]
    assert "your own: mine" in report.notes[0]
    repair(path)
    assert verify(path).ok
    assert snapshot(whole).items() <= snapshot(path).items()


@pytest.mark.parametrize("damage", ["delete", "cut", "nonsense", "format", "cfg_weight", "arrays"])
def test_damaged_root(path, whole, damage):
    file = path / "zarr.json"
    text = file.read_text()
    if damage == "delete":
        file.unlink()
    elif damage == "cut":
        file.write_text(text[: len(text) // 2])
    elif damage == "nonsense":
        file.write_text("[]")
    elif damage == "format":
        file.write_text(text.replace('"format": "calibzarr"', '"format": "calibzebr"'))
    elif damage == "cfg_weight":
        file.write_text(text.replace('"cfg_weight": 1.0', '"cfg_weight": 2.0'))
    else:
        root = json.loads(text)
        del root["consolidated_metadata"]["metadata"]["seed"]
        file.write_text(json.dumps(root))
    assert found(path) == {("manifest", None)}
    mend(path, whole)


@pytest.mark.parametrize("damage", ["delete", "cut", "shape", "dtype"])
def test_damaged_metadata_of_arrays(observed, observed_whole, damage):
    path, names = observed, ["latents", "decoded", "prompt", "sigma", "histogram"]
    for name in names:
        file = path / name / "zarr.json"
        metadata = json.loads(file.read_text())
        if damage == "delete":
            file.unlink()
        elif damage == "cut":
            file.write_text(file.read_text()[:50])
        else:
            key, value = {"shape": ("shape", [1, 1]), "dtype": ("data_type", "int8")}[damage]
            file.write_text(json.dumps({**metadata, key: value}))
    findings = verify(path).findings
    assert {(finding.check, finding.image) for finding in findings} == {("files", None)}
    assert sorted(finding.message.split("/")[0] for finding in findings) == sorted(names)
    mend(path, observed_whole)


def test_all_metadata_lost(observed, observed_whole):
    path = observed
    for file in path.rglob("zarr.json"):
        file.unlink()
    assert found(path) == {("manifest", None)}
    mend(path, observed_whole)


def test_lost_variable(path, whole):
    shutil.rmtree(path / "sigma")
    assert found(path) == {("manifest", None)}
    mend(path, whole)


def test_damaged_statistics_are_collected_again(observed, observed_whole):
    path = observed
    for name in ("histogram", "value_mean", "image_max", "feature_min", "layer"):
        chunk = sorted((path / name).glob("c.*"))[0]
        flip(chunk, chunk.stat().st_size // 2)
        assert found(path) == {("files", None)}
        if name != "layer":
            flip(chunk, chunk.stat().st_size // 2)
    result = repair(path)
    assert Call("collect", (path,), {"num_images": 3, "steps": [0, 5]}) in result.calls
    assert (path / "latents" / "damaged" / "layer" / chunk.name).exists()
    calibzarr.collect(path, num_images=3, steps=[0, 5])
    assert verify(path).findings == ()
    xr.testing.assert_equal(values(path), values(observed_whole))


def test_statistics_of_a_store_without_an_index_must_not_contradict_themselves(observed):
    path = without_index(observed)
    assert found(path) == set()
    changes = [
        ("histogram", (3, 5, 2900), 1),
        ("value_count", (3, 0), 128),
        ("value_min", (3, 0), -1.0),
        ("value_max", (3, 5), 1.0),
        ("value_mean", (3, 5), 10.0),
        ("value_std", (3, 5), 1000.0),
        ("image_min", (3, 5, 0), -100.0),
        ("image_max", (3, 5, 0), np.nan),
        ("image_mean", (3, 5, 0), 1.0),
        ("feature_max", (3, 5, 7), 100.0),
        ("feature_mean_min", (3, 5, 7), -1000.0),
        ("weight_histogram", (3, 2900), 1),
        ("features", 3, 1),
        ("collected_image", 0, True),
    ]
    for name, selection, change in changes:
        old = zarr.open_group(path)[name][selection]
        write(path, name, selection, not old if old.dtype == bool else old + change)
        assert ("files", None) in found(path), name
        write(path, name, selection, old)
    assert found(path) == set()


def test_statistics_of_a_lost_image_are_true_again_when_it_is_built(observed):
    path = observed
    image = int(values(path).collected_image.values.argmax())
    flip(states(path, image), 99)
    repair(path)
    assert found(path) == {("statistics", image)}
    calibzarr.build(path, resume=True)
    assert found(path) == set()


def test_nothing_is_found_in_a_store_that_grows(path):
    store.extend(
        path,
        [*store.stored_prompts(path)[0], "new"],
        [0, 1, 2, 3, 9],
        {"num_images": 5, "prompts_sha256": "unknown"},
    )
    report = verify(path)
    assert report.ok
    assert report.incomplete == (4,)

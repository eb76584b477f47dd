import json
import os
import pickle
import shutil
import signal
import zipfile

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

import calibzarr
from calibzarr.collecting import collector
from calibzarr.collecting.plan import plan
from calibzarr.errors import OptionError
from calibzarr.legacy import import_plan, importing
from calibzarr.storage import store
from tests.support import children, old_directory
from tests.support.moving import QUIET, bring_in, load, take_out


@pytest.mark.parametrize(("channels_last", "layout"), [(True, "nhwc"), (False, "nchw")])
@pytest.mark.parametrize("manifest_in", ["", "samples"])
def test_a_directory_of_the_old_scripts_goes_in_and_comes_out_equal(
    tmp_path, channels_last, layout, manifest_in
):
    old = tmp_path / "old"
    old_directory.write(old, channels_last=channels_last, manifest_in=manifest_in)
    old_directory.write_statistics(old)
    result = bring_in(old, tmp_path / "a.zarr")
    assert (result.n_completed, result.num_images, dict(result.left_out)) == (3, 3, {})
    dataset = load(tmp_path / "a.zarr")
    for image in range(3):
        states = old_directory.trajectory(image, 3, 4).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(dataset.latents[image], states)
        np.testing.assert_array_equal(dataset.decoded[image], old_directory.picture(image, 4))
    np.testing.assert_array_equal(dataset.sigma, old_directory.sigmas(3))
    np.testing.assert_array_equal(dataset.timestep, np.float32(1000) * old_directory.sigmas(3))
    assert dataset.final.values.tolist() == [False, False, False, True]
    assert dataset.prompt.values.tolist() == [f"a thing, number {image}" for image in range(3)]
    assert dataset.seed.values.tolist() == [42, 45, 48]
    assert dataset.complete.all()
    expected = {
        "model": "sd3-medium",
        "num_steps": 3,
        "cfg_weight": 7.5,
        "image_size": 32,
        "latent_dtype": "float32",
        "seed": 42,
        "prompt_source": "all.csv",
        "n_completed": 3,
        "model_fingerprint": None,
        "activation_dtype": None,
        "sampler": None,
        "batch_size": None,
    }
    assert {name: dataset.attrs[name] for name in expected} == expected
    take_out(tmp_path / "a.zarr", tmp_path / "back", layout=layout)
    if manifest_in:
        shutil.move(old / "samples" / "manifest.json", old / "manifest.json")
    old_directory.assert_equal(tmp_path / "back", old)


def test_a_store_goes_out_and_comes_in_with_the_same_bits(tmp_path, loaded_once):
    calibzarr.build(tmp_path / "a.zarr", num_images=2, num_steps=3)
    take_out(tmp_path / "a.zarr", tmp_path / "old")
    bring_in(tmp_path / "old", tmp_path / "b.zarr", workers=2)
    first, second = load(tmp_path / "a.zarr"), load(tmp_path / "b.zarr")
    xr.testing.assert_identical(second.drop_attrs(deep=False), first.drop_attrs(deep=False))
    assert second.latents.values.tobytes() == first.latents.values.tobytes()
    assert second.attrs["model"] == "tiny"


def damage(folder, image, how):  # noqa: C901 - a line or two for each damage
    path = folder / f"{image:04d}_001.npz"
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut off":
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "changed":
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 0xFF
        path.write_bytes(data)
    elif how == "pickled":
        path.write_bytes(pickle.dumps(arrays))
    elif how == "object":
        np.savez_compressed(path, **{**arrays, "x": np.array([{}], dtype=object)})
    elif how == "bomb":
        np.savez_compressed(path, **{**arrays, "x": np.zeros((1, 4096, 4096, 16), np.uint8)})
    elif how == "absurd shape":
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1000000, 1000000, 16)}\n"
        with zipfile.ZipFile(path, "w") as archive:
            start = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little")
            archive.writestr("x.npy", start + header)
            archive.writestr("sigma.npy", start + header)
    elif how == "another shape":
        np.savez_compressed(path, **{**arrays, "x": arrays["x"][:, :2, :2]})
    elif how == "another image":
        np.savez_compressed(path, **{**arrays, "image_id": np.int32(image + 1)})
    elif how == "another sigma":
        np.savez_compressed(path, **{**arrays, "sigma": arrays["sigma"] / 2})
    elif how == "no x":
        np.savez_compressed(path, **{k: v for k, v in arrays.items() if k != "x"})
    elif how == "infinite":
        x = arrays["x"].copy()
        x[0, 1, 1, 3] = np.inf
        np.savez_compressed(path, **{**arrays, "x": x})
    else:
        put(path, how)


def put(path, what):
    """Put something that is no file of data in the place of one."""
    path.unlink(missing_ok=True)
    if what == "directory":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "circle":
        path.symlink_to(path)
    elif what == "huge":
        with path.open("wb") as file:
            file.truncate(2**40)


DAMAGES = {
    "missing": "0001_001.npz is missing",
    "empty": "0001_001.npz is damaged",
    "cut off": "0001_001.npz is damaged",
    "changed": "0001_001.npz is damaged",
    "pickled": "0001_001.npz is damaged",
    "object": "holds no numbers in x",
    "bomb": "more than the",
    "absurd shape": "declares x of shape (1, 1000000, 1000000, 16)",
    "another shape": "has a state of (16, 2, 2), where other images have (16, 4, 4)",
    "another image": "says that it is image 2",
    "another sigma": "has sigma",
    "no x": "0001_001.npz has no x",
    "infinite": "0001_001.npz has values that are infinite or NaN",
    "directory": "0001_001.npz cannot be read (is no regular file)",
    "pipe": "0001_001.npz cannot be read (is no regular file)",
    "device": "0001_001.npz cannot be read (is no regular file)",
    "circle": "0001_001.npz cannot be read (Too many levels of symbolic links)",
    "huge": "0001_001.npz cannot be read (it has 1099511627776 bytes",
}


@pytest.mark.parametrize("how", DAMAGES)
def test_an_image_that_is_not_whole_is_named_and_left_out_and_the_rest_is_kept(tmp_path, how):
    old = tmp_path / "old"
    old_directory.write(old)
    damage(old / "samples", 1, how)
    result = bring_in(old, tmp_path / "a.zarr")
    assert (result.n_completed, result.num_images) == (2, 3)
    assert list(result.left_out) == [1]
    assert DAMAGES[how] in result.left_out[1]
    dataset = load(tmp_path / "a.zarr")
    assert dataset.complete.values.tolist() == [True, False, True]
    assert dataset.prompt.values[1] == "a thing, number 1"  # its place is kept
    assert np.isnan(dataset.latents[1]).all()
    expected = old_directory.trajectory(2, 3, 4).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(dataset.latents[2], expected)


@pytest.mark.parametrize("how", ["bomb", "absurd shape", "object"])
def test_a_directory_of_nothing_else_is_refused_in_one_line(tmp_path, how):
    old_directory.write(tmp_path / "old", num_images=1)
    damage(tmp_path / "old" / "samples", 0, how)
    with pytest.raises(ValueError, match=r"no image that is whole: 0000_001\.npz") as error:
        bring_in(tmp_path / "old", tmp_path / "a.zarr")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "a.zarr").exists()


def test_an_image_put_right_is_added_by_the_same_command(tmp_path):
    old = tmp_path / "old"
    old_directory.write(old)
    good = (old / "samples" / "0001_001.npz").read_bytes()
    damage(old / "samples", 1, "cut off")
    assert bring_in(old, tmp_path / "a.zarr").n_completed == 2
    (old / "samples" / "0001_001.npz").write_bytes(good)
    before = (tmp_path / "a.zarr" / "latents" / "c.0.0.0.0.0").stat().st_mtime_ns
    result = bring_in(old, tmp_path / "a.zarr")
    assert (result.imported, result.n_completed, dict(result.left_out)) == (1, 3, {})
    assert (tmp_path / "a.zarr" / "latents" / "c.0.0.0.0.0").stat().st_mtime_ns == before
    bring_in(old, tmp_path / "b.zarr")
    xr.testing.assert_equal(load(tmp_path / "a.zarr"), load(tmp_path / "b.zarr"))


def test_a_directory_that_has_grown_is_added(tmp_path):
    old_directory.write(tmp_path / "first", num_images=2)
    old_directory.write(tmp_path / "grown", num_images=5)
    bring_in(tmp_path / "first", tmp_path / "a.zarr")
    result = bring_in(tmp_path / "grown", tmp_path / "a.zarr")
    assert (result.imported, result.n_completed, result.num_images) == (3, 5, 5)
    bring_in(tmp_path / "grown", tmp_path / "b.zarr")
    xr.testing.assert_equal(load(tmp_path / "a.zarr"), load(tmp_path / "b.zarr"))
    assert len(store.stored_prompts(tmp_path / "a.zarr")[0]) == 5


def test_an_imported_store_is_not_built_on(tmp_path):
    old_directory.write(tmp_path / "old")
    bring_in(tmp_path / "old", tmp_path / "a.zarr")
    with pytest.raises(
        OptionError, match=r"was imported, .* only the same calibzarr.import_legacy.* can add"
    ):
        calibzarr.build(tmp_path / "a.zarr", num_images=4, resume=True)


@pytest.mark.parametrize("what", ["directory", "pipe", "device", "circle", "huge"])
def test_nothing_waits_for_what_is_no_file(tmp_path, what):
    old = tmp_path / "old"
    old_directory.write(old)
    old_directory.write_statistics(old)
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"a thing, number {image}\n" for image in range(3)))
    names = ("manifest.json", "activations/layer_statistics.json", "images/0001.png")
    for name in names:
        put(old / name, what)
    plan = import_plan.plan(old, tmp_path / "a.zarr", prompts=file, workers=1)
    for name in names[:2]:
        (note,) = [str(note) for note in plan.notes if str(note).startswith(str(old / name))]
        assert "cannot be read" in note
    result = importing.run(plan, QUIET)
    assert result.n_completed == 3
    assert "0001.png cannot be read" in result.without_picture[1]
    put(tmp_path / "old" / ".calibzarr-export.json", what)
    with pytest.raises(OptionError, match="is no export of"):
        take_out(tmp_path / "a.zarr", old)


def test_a_stray_state_sizes_nothing(tmp_path):
    old = tmp_path / "old"
    old_directory.write(old)
    shutil.copy(old / "samples" / "0000_000.npz", old / "samples" / "999999_000.npz")
    result = bring_in(old, tmp_path / "a.zarr")
    assert (result.n_completed, result.num_images) == (3, 3)
    assert dict(result.left_out) == {999999: "999999_001.npz is missing"}
    assert load(tmp_path / "a.zarr").sizes["image"] == 3


@pytest.mark.parametrize("place", ["images/", "../images/", ""])
def test_names_with_and_without_folders_are_read(tmp_path, place):
    old = tmp_path / "old"
    old_directory.write(old, manifest_in="samples" if place.startswith("..") else "")
    manifest = old / ("samples" if place.startswith("..") else "") / "manifest.json"
    (old / "images" / "0001.png").rename(old / "images" / "b.png")
    content = json.loads(manifest.read_text())
    content["images"][1]["filename"] = f"{place}b.png"
    manifest.write_text(json.dumps(content))
    assert not bring_in(old, tmp_path / "a.zarr").without_picture


def test_what_is_not_used_or_not_sure_is_told_of(tmp_path):
    old, file = tmp_path / "old", tmp_path / "prompts.txt"
    old_directory.write(old)
    file.write_text("a thing, number 0\nanother\n")
    options = {"prompts": file, "seed": 42, "cfg_weight": 7.5, "model": "sd3-medium"}
    notes = [str(note) for note in import_plan.plan(old, tmp_path / "a.zarr", **options).notes]
    assert notes == [
        "prompts is not used: the manifest has all prompts",
        "the manifest has another prompt for image 1, and counts",
        "seed is not used: the seeds of all images are known",
    ]
    old_directory.edit_manifest(old, lambda manifest: manifest.update(model_version="my/own"))
    old_directory.edit_manifest(old, lambda manifest: manifest["images"][0].update(cfg_weight=3))
    options = {"model": "tiny", "cfg_weight": 5}
    plan = import_plan.plan(old, tmp_path / "a.zarr", **options)
    assert [str(note) for note in plan.notes] == [
        "taking tiny for the model, which the manifest calls 'my/own'",
        "the images differ in cfg_weight; taking 5 for all",
    ]
    assert (plan.origin.model, plan.origin.cfg_weight) == ("tiny", 5.0)


def test_a_picture_is_found_under_the_name_that_the_manifest_gives(tmp_path):
    old = tmp_path / "old"
    old_directory.write(old)
    (old / "images" / "0001.png").rename(old / "images" / "other.png")
    old_directory.edit_manifest(
        old, lambda manifest: manifest["images"][1].update(filename="other.png")
    )
    assert not bring_in(old, tmp_path / "a.zarr").without_picture
    picture = load(tmp_path / "a.zarr").decoded[1]
    np.testing.assert_array_equal(picture, old_directory.picture(1, 4))


@pytest.mark.parametrize("how", ["missing", "cut off", "another size", "no picture"])
def test_an_image_without_its_picture_is_complete_and_named(tmp_path, how):
    old = tmp_path / "old"
    old_directory.write(old)
    path = old / "images" / "0001.png"
    if how == "missing":
        path.unlink()
    elif how == "cut off":
        path.write_bytes(path.read_bytes()[:200])
    elif how == "another size":
        shutil.copy(path, path.with_name("small.png"))
        from PIL import Image

        Image.open(path).resize((8, 8)).save(path)
    else:
        path.write_bytes(b"GIF89a")
    result = bring_in(old, tmp_path / "a.zarr")
    assert result.n_completed == 3
    assert list(result.without_picture) == [1]
    assert "0001.png" in result.without_picture[1]
    assert not load(tmp_path / "a.zarr").decoded[1].any()


def test_statistics_come_along_until_there_are_new_ones(tmp_path):
    old_directory.write(tmp_path / "old")
    files = old_directory.write_statistics(tmp_path / "old")
    bring_in(tmp_path / "old", tmp_path / "a.zarr")
    assert load(tmp_path / "a.zarr").attrs["legacy_statistics"] == files
    (tmp_path / "old" / "activations" / "layer_statistics.json").write_text('{"a": NaN, "b": [1')
    plan = import_plan.plan(tmp_path / "old", tmp_path / "b.zarr", workers=1)
    assert "layer_statistics.json is left out: it is no JSON" in plan.notes[0]
    importing.run(plan, QUIET)
    assert list(load(tmp_path / "b.zarr").attrs["legacy_statistics"]) == [
        "collection_metadata.json"
    ]


@pytest.fixture
def of_tiny(tmp_path, loaded_once):
    """A store of the embedded model, and a directory that it was exported to."""
    calibzarr.build(tmp_path / "a.zarr", num_images=2, num_steps=3)
    take_out(tmp_path / "a.zarr", tmp_path / "old")
    return tmp_path


def test_an_imported_store_is_collected_like_the_one_it_came_from(of_tiny):
    bring_in(of_tiny / "old", of_tiny / "b.zarr")
    said = Console(file=open(of_tiny / "said", "w"), soft_wrap=True)  # noqa: SIM115
    for path in (of_tiny / "a.zarr", of_tiny / "b.zarr"):
        collector.run(plan(path, steps=[0, 2]), said)
    said.file.close()
    first, second = load(of_tiny / "a.zarr"), load(of_tiny / "b.zarr")
    for name in ("histogram", "value_mean", "feature_max"):
        xr.testing.assert_equal(first[name], second[name])
    text = (of_tiny / "said").read_text()
    assert f"{of_tiny / 'b.zarr'} was imported: whether tiny has the weights" in text
    assert f"{of_tiny / 'a.zarr'} was imported" not in text


@pytest.mark.parametrize(
    ("change", "key", "option", "message"),
    [
        ({"model_version": "my/model"}, "model", {"model": "tiny"}, "its model is not known"),
        ({"cfg_scale": None}, "cfg_weight", {"cfg_weight": 3}, "its cfg_weight is not known"),
    ],
)
def test_what_is_not_known_can_be_said_later(of_tiny, change, key, option, message):
    def forget(manifest):
        manifest.update(change)
        for entry in manifest["images"]:
            entry.pop("cfg_weight" if key == "cfg_weight" else "num_steps")

    old_directory.edit_manifest(of_tiny / "old", forget)
    bring_in(of_tiny / "old", of_tiny / "b.zarr")
    assert load(of_tiny / "b.zarr").attrs[key] is None
    with pytest.raises(ValueError, match=rf"{message}; say it with: .*import_legacy\(.* {key}="):
        calibzarr.collect(of_tiny / "b.zarr")
    bring_in(of_tiny / "old", of_tiny / "b.zarr", **option)
    assert load(of_tiny / "b.zarr").attrs[key] == option[key]
    assert calibzarr.collect(of_tiny / "b.zarr", steps=[0]).num_images == 2


def test_states_of_another_schedule_are_not_collected(tmp_path, loaded_once):
    old_directory.write(tmp_path / "old", size=8, num_steps=4)
    old_directory.edit_manifest(
        tmp_path / "old", lambda manifest: manifest.update(model_version="tiny")
    )
    for image in range(3):
        path = tmp_path / "old" / "samples" / f"{image:04d}_001.npz"
        with np.load(path) as archive:
            arrays = {key: archive[key] for key in archive.files}
        np.savez_compressed(path, **{**arrays, "sigma": np.float32(0.9)})
    bring_in(tmp_path / "old", tmp_path / "a.zarr")
    with pytest.raises(ValueError, match="imported as of tiny, but has other noise levels"):
        calibzarr.collect(tmp_path / "a.zarr")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_import_goes_on_to_the_same_store(tmp_path, how):
    old = tmp_path / "old"
    old_directory.write(old, num_images=24)
    bring_in(old, tmp_path / "whole.zarr")
    path = tmp_path / "a.zarr"
    arguments = ("import-legacy", old, path, "--workers", 2)
    ended = children.run(children.command_with_signal, 2, how, *arguments)
    if how == signal.SIGINT:
        assert ended.code == 130, ended.stderr
        assert "go on with the same command" in ended.stdout
    else:
        assert ended.killed
    assert 2 <= store.completed(path, 24).sum() < 24
    children.make_leftovers_old(path)
    assert bring_in(old, path).n_completed == 24
    xr.testing.assert_equal(load(path), load(tmp_path / "whole.zarr"))
    assert not list(path.rglob("*.partial"))


def test_the_command_lists_what_it_leaves_out_and_says_what_is_next(tmp_path, run):
    old = tmp_path / "old"
    old_directory.write(old, num_images=15)
    for image in range(1, 13):
        (old / "samples" / f"{image:04d}_001.npz").unlink()
    (old / "images" / "0013.png").unlink()
    code, out, err = run("import-legacy", old, tmp_path / "a.zarr", "-q")
    assert code == 0
    lines = err.splitlines()
    assert lines[0] == "warning: image 1 is left out: 0001_001.npz is missing"
    assert lines[10] == "warning: 2 more images are left out"
    assert lines[11] == "warning: image 13 is without a picture: 0013.png is missing"
    assert len(lines) == 12
    assert f"{tmp_path / 'a.zarr'}: 3 of 15 images are complete" in out
    assert "calibzarr info" not in out  # a hint, which -q leaves out
